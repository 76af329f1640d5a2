// The passes after a library's products: what our own kernels do at the end of a product themselves. In: plain products. Out: biases added,
// activations applied, heads rotated and put in their places.
#pragma once
#include "products.cuh"

namespace chai::cuda {

constexpr int library_row_threads = 256;

/// One block a row of the range: bias and activation where the product lies.
template <class T>
__global__ void __launch_bounds__(library_row_threads)
    finish_plain(const StepView* view, PlainTask<T> task, RowRange range, bool of_logits) {
  const int row = range.first + int(blockIdx.x);
  dev::wait_for_previous_kernel();
  dev::let_next_kernel_start();
  if (row >= min(of_logits ? view->logit_rows : view->rows, range.end)) return;
  for (int n = int(threadIdx.x); n < task.columns; n += library_row_threads) task.finish(n, row);
}

/// products: [rows of the range][gate, up][pitch_of(columns)], the tails of rows undefined. One block a row.
template <class T>
__global__ void __launch_bounds__(library_row_threads)
    finish_gated(const StepView* view, GatedTask<T> task, RowRange range, const T* products) {
  const StepView& step = *view;
  const int row = range.first + int(blockIdx.x), pitch = int(task.pitch);
  dev::wait_for_previous_kernel();
  dev::let_next_kernel_start();
  if (row >= min(step.rows, range.end)) return;
  const T* const gate = products + int64_t(blockIdx.x) * 2 * pitch;
  for (int i = int(threadIdx.x) * 8; i < task.columns; i += library_row_threads * 8) {
    float first[8], second[8];
    dev::load8(first, gate + i);
    dev::load8(second, gate + pitch + i);
    const int count = min(8, task.columns - i);
#pragma unroll
    for (int j = 0; j < 8; ++j)
      first[j] = j < count ? activate(task.activation, first[j] + task.gate.bias_of(i + j)) * (second[j] + task.up.bias_of(i + j)) : 0.0f;
    // the tail of the row is zero as ever
    *reinterpret_cast<uint4*>(task.to + row * task.pitch + i) =
        make_uint4(dev::pack2<T>(first[0], first[1]), dev::pack2<T>(first[2], first[3]), dev::pack2<T>(first[4], first[5]),
                   dev::pack2<T>(first[6], first[7]));
  }
}

/// products: [rows of the range][pitch], the heads of all three projections side by side, numbered as in qkv_task.cuh. One block a row of
/// the range, a warp a slot of the row's tables.
template <class T>
__global__ void __launch_bounds__(library_row_threads, 4)
    place_heads(const StepView* view, QkvTask<T> task, RowRange range, const T* products, int pitch) {
  const StepView& step = *view;
  const Geometry& g = task.scope.geometry;
  const int row = range.first + int(blockIdx.x), lane = int(threadIdx.x) & 31;
  dev::wait_for_previous_kernel();
  dev::let_next_kernel_start();
  if (row >= min(step.rows, range.end)) return;
  const SegmentRecord segment = step.segment[step.row_segment[row]];
  if ((segment.warm_up != 0) != task.scope.warm_up) return;
  const int32_t* own = tables_of(step, g, segment, task.scope.layer).own;
  const T* const from = products + int64_t(blockIdx.x) * pitch;
  for (int entry = int(threadIdx.x) / 32; entry < task.heads(); entry += library_row_threads / 32) {
    const int head = task.scope.head_of_entry(own, entry);
    if (head < 0) continue;
    const int slot = entry < g.heads ? entry : entry < g.heads + g.key_value_heads ? entry - g.heads : entry - g.heads - g.key_value_heads;
    const uint64_t to = task.destination(step, segment, head, slot, row);
    const T* const of_head = from + int64_t(head) * g.head_dim;
    for (int i = lane; i < task.half; i += 32) {
      const float second = i + task.half < g.head_dim ? dev::to_float(of_head[i + task.half]) : 0.0f;
      const Pair pair{head, i};
      task.store(step, pair, row, dev::to_float(of_head[i]), second, task.addends(step, pair, row), to);
    }
  }
}

}  // namespace chai::cuda
