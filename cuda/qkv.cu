// Queries, keys and values of a step. In: the residual stream, the head tables of the step's segments. Out: rotated queries by score slot,
// keys and values in their pages. Heads that no table of the rows names are skipped, on the device.
#include "multiply.cuh"

namespace chai::cuda {
namespace {

/// Shared memory of `prepare_heads`: [heads] slots, [heads] marks, [tile rows] tables.
size_t prepare_shared_bytes(int heads, int tile_rows) { return size_t(heads) * 8 + size_t(tile_rows) * sizeof(const int32_t*); }

/// The heads that rows [first, first + tile_rows) need. Rows of one segment are looked at once. By the whole block.
__device__ __forceinline__ void list_tile(const StepView& step, const HeadScope& scope, const RowRange& range, int first, int tile_rows,
                                          int32_t* marks, const int32_t** tables, int32_t* list) {
  const int heads = scope.all_heads();
  const int count = min(tile_rows, min(step.rows, range.end) - first);
  for (int i = int(threadIdx.x); i < count; i += norm_threads) {
    const SegmentRecord segment = step.segment[step.row_segment[first + i]];
    const bool counts = (segment.warm_up != 0) == scope.warm_up && (i == 0 || segment.row == first + i);
    tables[i] = counts ? tables_of(step, scope.geometry, segment, scope.layer).own : nullptr;
  }
  __syncthreads();
  // Threads go over (row, entry of its table): independent loads, where a thread a row would wait for one after the other.
  for (int i = int(threadIdx.x); i < count * heads; i += norm_threads) {
    const int32_t* own = tables[i / heads];
    const int head = own ? scope.head_of_entry(own, i % heads) : -1;
    if (head >= 0) marks[head] = 1;
  }
  __syncthreads();
  list_heads(marks, heads, list);
}

/// The slots of all heads in one segment's tables. By the whole block.
__device__ __forceinline__ void find_slots(const StepView& step, const HeadScope& scope, const SegmentRecord& segment, int32_t* shared,
                                           int32_t* marks, int16_t* slots) {
  const int heads = scope.all_heads();
  scope.each_head(step, segment, int(threadIdx.x), norm_threads, [&](int head, int slot) {
    if (atomicExch(&shared[head], slot) != -1) marks[head] = shared_slot;
  });
  __syncthreads();
  for (int i = int(threadIdx.x); i < heads; i += norm_threads) slots[i] = int16_t(shared[i] < 0 ? -1 : shared[i] | marks[i]);
}

/// Blocks 0 .. rows - 1: normalise one row each (unless `norm` is false), and find the slots of the segment that begins there.
/// Blocks after those: the heads that one tile of `tile_rows` rows of `range` needs. Tables change during a step only if it has warm-up
/// rows.
template <class T>
__global__ void __launch_bounds__(norm_threads)
    prepare_heads(const StepView* view, HeadScope scope, RowsOf<T> from, T* normed, bool norm, bool tables_change, int rows, RowRange range,
                  int tile_rows, int16_t* slots, int32_t* lists) {
  DEV_DYN_SMEM(int32_t, shared);
  __shared__ float scratch[32];
  const StepView& step = *view;
  const int heads = scope.all_heads(), block = int(blockIdx.x), tile = block - rows;
  int32_t* marks = shared + heads;
  for (int i = int(threadIdx.x); i < 2 * heads; i += norm_threads) shared[i] = i < heads ? -1 : 0;
  __syncthreads();
  if (tables_change) dev::wait_for_previous_kernel();
  if (tile >= 0) {
    list_tile(step, scope, range, range.first + tile * tile_rows, tile_rows, marks, reinterpret_cast<const int32_t**>(marks + heads),
              lists + int64_t(tile) * (1 + heads));
  } else if (block < step.rows) {
    const int number = step.row_segment[block];
    const SegmentRecord segment = step.segment[number];
    if (segment.row == block) find_slots(step, scope, segment, shared, marks, slots + int64_t(number) * heads);
  }
  dev::wait_for_previous_kernel();
  dev::let_next_kernel_start();
  if (!norm || block >= rows || block >= step.rows) return;
  const float* const x[1] = {from.x + int64_t(block) * from.pitch};
  T* const to[1] = {normed + int64_t(block) * from.pitch};
  normalise_rows(x, to, from.norm, from.width, from.pitch, scratch);
}

/// Whether rows [first, end) need most heads: then the library, which knows no lists, computes them all.
bool needs_most_heads(const StepLaunch& step, const RowRange& range, int layer, const Config& config) {
  int64_t needed = 0, all = 0;
  for (const Segment& segment : step.host->segments) {
    const int rows = std::min(segment.row + segment.count, range.end) - std::max(segment.row, range.first);
    if (rows <= 0) continue;
    const HeadPlan& plan = *step.host->sequences[size_t(segment.sequence)].geometry->plan;
    int heads = plan.value_slots(layer, config);
    if (plan.scores_from(layer) == layer) {
      const PlanLayer& of_layer = plan.layers[size_t(layer)];
      heads += plan.method == Method::chai ? of_layer.rule.clusters : int(of_layer.heads.query_of_score.size());
      heads += plan.key_slots(layer, config);
    }
    needed += int64_t(rows) * heads;
    all += int64_t(rows) * (config.heads + 2 * config.key_value_heads);
  }
  return 4 * needed >= 3 * all;
}

/// All heads of rows [first, end), then those that the tables name to their places. False: the library refused.
template <class T>
bool project_by_library(const StepLaunch& step, const Linear::State& s, const QkvTask<T>& task, const T* from, int pitch,
                        const RowRange& range) {
  const Config& config = s.config;
  const int width = pitch_of(config.query_width() + 2 * config.key_value_width());
  T* const products = reinterpret_cast<T*>(s.products.get());
  for (RowRange piece = range; piece.first < range.end; piece.first = piece.end) {
    piece.end = std::min(range.end, piece.first + library_rows(s.rows));
    T* to = products;
    for (const WeightView<T>* weight : {&task.query, &task.key, &task.value}) {
      const int columns = weight == &task.query ? config.query_width() : config.key_value_width();
      LibraryProduct product = library_product(*weight, columns, from + int64_t(piece.first) * pitch, pitch, piece.end - piece.first);
      product.to = to, product.to_stride = width;
      if (!s.library->multiply(product, step.stream)) return false;
      to += columns;
    }
    const Launch how{dim3(unsigned(piece.end - piece.first)), dim3(library_row_threads), 0, step.stream, s.early};
    launch(place_heads<T>, how, step.view, task, piece, products, width);
  }
  return true;
}

/// Rows [first, end) through our own kernels. norm: of all rows of the step, from x to `normed`, which is there already otherwise.
template <class T>
void project(const StepLaunch& step, const Linear::State& s, const QkvTask<T>& task, const RowsOf<T>& from, T* normed, bool norm,
             const RowRange& range) {
  const int count = range.end - range.first, rows = step.rows;
  const int tile_rows = tile_rows_of(task.all_units(), count, *step.device), tiles = (count + tile_rows - 1) / tile_rows;
  const Launch how{dim3(unsigned(rows + tiles)), dim3(norm_threads), prepare_shared_bytes(task.heads(), tile_rows), step.stream, s.early};
  launch(prepare_heads<T>, how, step.view, task.scope, from, normed, norm, step.warm_up, rows, range, tile_rows, s.slots.get(),
         s.lists.get());
  multiply_many(step, s.early, tile_rows, Task<T>(task),
                Operands<T>{normed, from.pitch, false, range, count, sharing_of(step, s), {s.lists.get(), s.slots.get()}});
}

}  // namespace

void Linear::qkv(const StepLaunch& step, Phase phase, int layer, const LayerWeights& weights, const float* x, void* queries) {
  if (step.rows == 0 || (phase == Phase::warm_up && !step.warm_up)) return;
  const State& s = *state_;
  const Config& config = s.config;
  with_type(s.compute, [&](auto type) {
    using T = decltype(type);
    QkvTask<T> task;
    task.scope = {step.geometry, layer, phase == Phase::warm_up};
    task.query = weights_of<T>(weights.query), task.key = weights_of<T>(weights.key), task.value = weights_of<T>(weights.value);
    task.queries = static_cast<unsigned char*>(queries), task.query_pitch = pitch_of(config.query_width());
    task.cache = step.cache, task.rotary = !config.rotary_frequencies.empty(), task.half = (config.head_dim + 1) / 2;
    const bool before = config.norm_placement == NormPlacement::before;
    const RowsOf<T> from = normed_rows<T>(x, config.hidden, before ? view_of(weights.attention_norm, config) : NormView{});
    if (is_few(step, task.heads(), from, step.rows)) return multiply_few(step, s.early, Task<T>(task), from, step.rows);

    T* normed = reinterpret_cast<T*>(s.normed.get());
    if (phase == Phase::warm_up) return project(step, s, task, from, normed, true, {0, step.rows});
    bool norm = !step.warm_up;  // both phases of a layer read the same rows
    each_range(step, s, step.rows, false, [&](const RowRange& range, bool by_library) {
      if (by_library && needs_most_heads(step, range, layer, config)) {
        if (norm) launch(normalise<T>, {dim3(unsigned(step.rows)), dim3(norm_threads), 0, step.stream, s.early}, step.view, from, normed);
        norm = false;
        if (project_by_library(step, s, task, static_cast<const T*>(normed), from.pitch, range)) return;
      }
      project(step, s, task, from, normed, norm, range);
      norm = false;
    });
  });
}

}  // namespace chai::cuda
