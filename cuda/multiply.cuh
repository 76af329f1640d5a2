// One product of a step, on the path that fits its rows: few rows stream the weights (gemv.cu), more go through tensor cores (gemm.cu)
// after a norm of their own, very many through a library where there is one. In: a task, rows. Out: what the task stores.
#pragma once
#include "launch.cuh"
#include "library_rows.cuh"
#include "linear_state.h"
#include "products.cuh"

namespace chai::cuda {

template <class T>
RowsOf<T> rows_of(const T* rows, int width) {
  return {nullptr, rows, width, pitch_of(width), {}, false};
}
template <class T>
RowsOf<T> normed_rows(const float* x, int width, const NormView& norm) {
  return {x, nullptr, width, pitch_of(width), norm, false};
}

/// x += product (+ bias)
template <class T>
PlainTask<T> add_task(const chai::Linear& linear, float* x, int width) {
  PlainTask<T> task;
  task.weight = weights_of<T>(linear);
  task.columns = width, task.store_as = Store::add, task.floats = x, task.pitch = pitch_of(width);
  return task;
}
/// y = product, float32 with `pitch` between rows.
template <class T>
PlainTask<T> float_task(const chai::Linear& linear, float* y, int width, int64_t pitch) {
  PlainTask<T> task;
  task.weight = weights_of<T>(linear);
  task.columns = width, task.store_as = Store::floats, task.floats = y, task.pitch = pitch;
  return task;
}
/// y = product in the compute type.
template <class T>
PlainTask<T> narrow_task(const chai::Linear& linear, T* y, int width) {
  PlainTask<T> task;
  task.weight = weights_of<T>(linear);
  task.columns = width, task.store_as = Store::narrow, task.narrow = y, task.pitch = pitch_of(width);
  return task;
}

/// One block a row: to[row] = norm(x[row]), or of the row that logit row `row` names.
template <class T>
__global__ void __launch_bounds__(norm_threads) normalise(const StepView* view, RowsOf<T> from, T* to) {
  __shared__ float scratch[32];
  const StepView& step = *view;
  const int row = int(blockIdx.x);
  dev::wait_for_previous_kernel();
  dev::let_next_kernel_start();
  if (row >= (from.of_logits ? step.logit_rows : step.rows)) return;
  const float* const x[1] = {from.x + int64_t(from.of_logits ? step.logit_row[row] : row) * from.pitch};
  T* const at[1] = {to + int64_t(row) * from.pitch};
  normalise_rows(x, at, from.norm, from.width, from.pitch, scratch);
}

/// x[row] = norm(x[row]) for the step's rows.
void normalise_in_place(const StepLaunch& step, const Linear::State& state, const NormView& norm, float* x);

/// The room for shared tiles; none in steps with warm-up rows, whose bits must not depend on the batch.
inline Sharing sharing_of(const StepLaunch& step, const Linear::State& state) {
  if (step.warm_up) return {};
  return {state.shared_sums.get(), state.arrived.get(), int32_t(state.arrived.count())};
}

/// visit(rows, by_library) for all rows of a product in turn. The library gets long runs of rows without warm-up rows in them.
template <class Visit>
void each_range(const StepLaunch& step, const Linear::State& state, int rows, bool of_logits, Visit visit) {
  // While a graph is recorded there is no host step.
  if (rows < least_library_rows || !step.host || !state.products) return visit(RowRange{0, rows}, false);
  if (of_logits || !step.warm_up) return visit(RowRange{0, rows}, true);
  int done = 0, run = 0;  // the run began here
  const auto end_run = [&](int end) {
    if (end - run < least_library_rows_beside_others) return;
    if (run > done) visit(RowRange{done, run}, false);
    visit(RowRange{run, end}, true);
    done = end;
  };
  for (const Segment& segment : step.host->segments) {
    if (!segment.warm_up) continue;
    end_run(segment.row);
    run = segment.row + segment.count;
  }
  end_run(rows);
  if (done < rows) visit(RowRange{done, rows}, false);
}

template <class T>
LibraryProduct library_product(const WeightView<T>& weight, int columns, const T* from, int pitch, int rows) {
  LibraryProduct out;
  out.from = from, out.from_stride = pitch, out.width = pitch;  // the tails of weights and rows are zero
  out.weight = weight.data, out.weight_stride = weight.stride;
  out.rows = rows, out.columns = columns;
  out.type = std::is_same_v<T, __nv_bfloat16> ? Element::bfloat16 : Element::float16;
  return out;
}

/// False: the library refused, and the rows are as before.
template <class T>
bool multiply_by_library(const StepLaunch& step, const Linear::State& state, const PlainTask<T>& task, const T* from, int pitch,
                         const RowRange& range, bool of_logits) {
  LibraryProduct product = library_product(task.weight, task.columns, from + int64_t(range.first) * pitch, pitch, range.end - range.first);
  product.add = task.store_as == Store::add, product.floats = product.add || task.store_as == Store::floats;
  const int64_t offset = range.first * task.pitch;
  product.to = product.floats ? static_cast<void*>(task.floats + offset) : task.narrow + offset;
  product.to_stride = task.pitch;
  if (!state.library->multiply(product, step.stream)) return false;
  const Launch how{dim3(unsigned(product.rows)), dim3(library_row_threads), 0, step.stream, state.early};
  if (task.needs_finish()) launch(finish_plain<T>, how, step.view, task, range, of_logits);
  return true;
}
template <class T>
bool multiply_by_library(const StepLaunch& step, const Linear::State& state, const GatedTask<T>& task, const T* from, int pitch,
                         const RowRange& range, bool) {
  T* const products = reinterpret_cast<T*>(state.products.get());
  for (RowRange piece = range; piece.first < range.end; piece.first = piece.end) {
    piece.end = std::min(range.end, piece.first + library_rows(state.rows));
    LibraryProduct product = library_product(task.gate, task.columns, from + int64_t(piece.first) * pitch, pitch, piece.end - piece.first);
    product.to = products, product.to_stride = 2 * task.pitch;
    if (!state.library->multiply(product, step.stream)) return false;
    product.weight = task.up.data, product.weight_stride = task.up.stride, product.to = products + task.pitch;
    if (!state.library->multiply(product, step.stream)) return false;
    const Launch how{dim3(unsigned(product.rows)), dim3(library_row_threads), 0, step.stream, state.early};
    launch(finish_gated<T>, how, step.view, task, piece, products);
  }
  return true;
}

/// Float32 rows are normalised into `state.normed` first, unless the product does that itself.
template <class T, template <class> class OneTask>
void multiply(const StepLaunch& step, const Linear::State& state, const OneTask<T>& task, const RowsOf<T>& from, int rows) {
  if (is_few(step, 0, from, rows)) return multiply_few(step, state.early, Task<T>(task), from, rows);
  const T* at = from.rows;
  if (from.x) {
    T* normed = reinterpret_cast<T*>(state.normed.get());
    launch(normalise<T>, {dim3(unsigned(rows)), dim3(norm_threads), 0, step.stream, state.early}, step.view, from, normed);
    at = normed;
  }
  each_range(step, state, rows, from.of_logits, [&](const RowRange& range, bool by_library) {
    if (by_library && multiply_by_library(step, state, task, at, from.pitch, range, from.of_logits)) return;
    const int count = range.end - range.first;
    const Operands<T> operands{at, from.pitch, from.of_logits, range, count, sharing_of(step, state), {}};
    multiply_many(step, state.early, tile_rows_of(task.all_units(), count, *step.device), Task<T>(task), operands);
  });
}

// Compiled once, in linear.cu.
extern template void multiply(const StepLaunch&, const Linear::State&, const PlainTask<__half>&, const RowsOf<__half>&, int);
extern template void multiply(const StepLaunch&, const Linear::State&, const PlainTask<__nv_bfloat16>&, const RowsOf<__nv_bfloat16>&, int);

}  // namespace chai::cuda
