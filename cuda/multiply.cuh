// One product of a step, on the path that fits its rows: few rows stream the weights (gemv.cuh), more go through tensor cores (gemm.cuh)
// after a norm of their own. In: a task, rows. Out: what the task stores.
#pragma once
#include "gemm.cuh"
#include "gemv.cuh"
#include "linear_state.h"

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

/// Float32 rows are normalised into `state.normed` first, unless the product does that itself.
template <class T, class Task>
void multiply(const StepLaunch& step, const Linear::State& state, const Task& task, const RowsOf<T>& from, int rows) {
  if (is_few(step, task, from, rows)) return multiply_few(step, state.early, task, from, rows);
  const T* at = from.rows;
  if (from.x) {
    T* normed = reinterpret_cast<T*>(state.normed.get());
    launch(normalise<T>, {dim3(unsigned(rows)), dim3(norm_threads), 0, step.stream, state.early}, step.view, from, normed);
    at = normed;
  }
  multiply_many(step, state.early, shape_of(task.all_units(), rows, *step.device), task, at, from.pitch, rows, from.of_logits);
}

// Compiled once, in linear.cu.
extern template void multiply(const StepLaunch&, const Linear::State&, const PlainTask<__half>&, const RowsOf<__half>&, int);
extern template void multiply(const StepLaunch&, const Linear::State&, const PlainTask<__nv_bfloat16>&, const RowsOf<__nv_bfloat16>&, int);

}  // namespace chai::cuda
