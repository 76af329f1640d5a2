// Products of 1 to 4 rows at the speed of memory: a warp streams pairs of weight rows, the rows stay in shared memory. In: a task
// (products.cuh), float32 rows with their norm or rows of the compute type. Out: what the task stores.
#include <algorithm>

#include "launch.cuh"
#include "products.cuh"

namespace chai::cuda {
namespace {

constexpr int gemv_threads = 256, gemv_warps = gemv_threads / 32, gemv_loads = 4;
constexpr int most_gemv_rows = 4;
/// Blocks that registers allow on a multiprocessor: 24 or 16 warps with 4 KiB each under way.
constexpr int gemv_blocks_at_once(int rows) { return rows == 1 ? 3 : 2; }

/// Bytes of dynamic shared memory. Heads: destinations [rows][heads], slots [rows][heads], needed [heads], list [1 + heads].
size_t gemv_shared_bytes(int rows, int pitch, int heads) {
  return size_t(rows) * size_t(pitch) * 2 + size_t(rows) * 32 * 4 + size_t(heads) * size_t(rows) * 12 + size_t(heads) * 8 + 16;
}

/// Slots of all heads in the tables of each row, the list of heads that some row needs, and where they go. By the whole block.
template <int rows, class T>
__device__ __forceinline__ void find_heads(const StepView& step, const QkvTask<T>& task, uint64_t* destinations, int32_t* slots,
                                           int32_t* needed, int32_t* list) {
  const int heads = task.heads(), threads = int(blockDim.x), index = int(threadIdx.x);
  for (int i = index; i < rows * heads; i += threads) slots[i] = -1;
  for (int i = index; i < heads; i += threads) needed[i] = 0;
  __syncthreads();
  const int warp = index / 32, warps = threads / 32;
  for (int row = warp; row < rows && row < step.rows; row += warps) {
    const SegmentRecord segment = step.segment[step.row_segment[row]];
    task.scope.each_head(step, segment, index & 31, 32, [&](int head, int slot) {
      const bool again = atomicExch(&slots[row * heads + head], slot) != -1;
      atomicMax(&needed[head], again ? 2 : 1);
    });
  }
  __syncthreads();
  list_heads(needed, heads, list);
  for (int i = index; i < rows * heads; i += threads) {
    const int row = i / heads, head = i - row * heads;
    destinations[i] = 0;
    if (slots[i] < 0) continue;
    const int slot = slots[i] | (needed[head] == 2 ? shared_slot : 0);
    destinations[i] = task.destination(step, step.segment[step.row_segment[row]], head, slot, row);
  }
}

template <class T, int rows>
__device__ __forceinline__ void fetch_rows(const StepView& step, const RowsOf<T>& from, T* to, float* scratch) {
  const int count = from.of_logits ? step.logit_rows : step.rows;
  if (from.x) {
    const float* x[rows];
    T* at[rows];
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      x[r] = r < count ? from.x + int64_t(from.of_logits ? step.logit_row[r] : r) * from.pitch : nullptr;
      at[r] = to + r * from.pitch;
    }
    normalise_rows(x, at, from.norm, from.width, from.pitch, scratch);
    return;
  }
  const int chunks = from.pitch / 8;
  for (int i = int(threadIdx.x); i < rows * chunks; i += int(blockDim.x))
    reinterpret_cast<uint4*>(to)[i] = i < count * chunks ? reinterpret_cast<const uint4*>(from.rows)[i] : make_uint4(0, 0, 0, 0);
}

/// The two weight rows of a pair, and 16-byte pieces of them on their way: all loads of a batch are under way before the first is used.
template <class T>
struct PairStream {
  const T* rows[2] = {};
  uint4 pieces[2][gemv_loads];
  int chunks;

  /// Pieces of chunk start + lane, start + 32 + lane, ...
  __device__ __forceinline__ void load(int start) {
#pragma unroll
    for (int u = 0; u < gemv_loads; ++u) {
      const int chunk = start + u * 32 + (int(threadIdx.x) & 31);
      const bool inside = chunk < chunks;
      pieces[0][u] = inside ? dev::load_streaming(rows[0] + chunk * 8) : make_uint4(0, 0, 0, 0);
      pieces[1][u] = inside ? dev::load_streaming(rows[1] + chunk * 8) : make_uint4(0, 0, 0, 0);
    }
  }
  /// sums[s][r] += loaded part of weight row s times row r.
  template <int rows_of_x>
  __device__ __forceinline__ void multiply(const T* x, int start, float (&sums)[2][rows_of_x]) const {
#pragma unroll
    for (int u = 0; u < gemv_loads; ++u) {
      const int chunk = start + u * 32 + (int(threadIdx.x) & 31);
      if (chunk >= chunks) continue;
      float w[2][8];
      dev::unpack8<T>(w[0], pieces[0][u]);
      dev::unpack8<T>(w[1], pieces[1][u]);
#pragma unroll
      for (int r = 0; r < rows_of_x; ++r) {
        float v[8];
        dev::load8(v, x + (r * chunks + chunk) * 8);
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          sums[0][r] = fmaf(w[0][j], v[j], sums[0][r]);
          sums[1][r] = fmaf(w[1][j], v[j], sums[1][r]);
        }
      }
    }
  }
};

/// The same numbers, no longer on their way: what waits for them later would wait for the weights behind them too.
__device__ __forceinline__ Addends arrived(const Addends& addends) {
  const auto here = [](float x) { return __shfl_sync(dev::all_lanes, x, int(threadIdx.x) & 31); };
  return {here(addends.first),       here(addends.second), here(addends.onto_first),
          here(addends.onto_second), here(addends.cosine), here(addends.sine)};
}

/// Warps walk over pairs; lane r finishes row r. The first weights are asked for before the kernel ahead has ended, those of the next pair
/// before this pair's sums are put together.
template <class T, int rows>
__global__ void __launch_bounds__(gemv_threads, gemv_blocks_at_once(rows))
    gemv(const StepView* view, Task<T> task, RowsOf<T> from, int all_pairs) {
  DEV_DYN_SMEM(unsigned char, shared);
  const StepView& step = *view;
  const int lane = int(threadIdx.x) & 31, count = from.of_logits ? step.logit_rows : step.rows;
  T* x = reinterpret_cast<T*>(shared);
  float* scratch = reinterpret_cast<float*>(shared + size_t(rows) * size_t(from.pitch) * 2);
  uint64_t* destinations = reinterpret_cast<uint64_t*>(scratch + rows * 32);
  int32_t* list = nullptr;
  int heads = 0, pairs = all_pairs;
  if (task.by_heads()) {  // without warm-up rows the tables do not change during a step
    heads = task.heads();
    int32_t* slots = reinterpret_cast<int32_t*>(destinations + rows * heads);
    int32_t* needed = slots + rows * heads;
    list = needed + heads;
    find_heads<rows>(step, task.qkv, destinations, slots, needed, list);
    __syncthreads();
    pairs = list[0] * task.qkv.half;
  }
  Pair pair;
  PairStream<T> weights;
  weights.chunks = from.pitch / 8;
  int index = int(blockIdx.x) * gemv_warps + int(threadIdx.x) / 32;
  const auto start_pair = [&] {
    if (index >= pairs) return;
    pair = task.pair_of_index(list, index);
    const T* second = task.weight_row(pair, true);
    weights.rows[0] = task.weight_row(pair, false);
    weights.rows[1] = second ? second : weights.rows[0];
    weights.load(0);
  };
  start_pair();
  dev::wait_for_previous_kernel();
  dev::let_next_kernel_start();
  fetch_rows<T, rows>(step, from, x, scratch);
  __syncthreads();
  while (index < pairs) {
    const bool finishes = lane < rows && lane < count;
    Addends addends;
    if (finishes) addends = task.addends(step, pair, lane);
    float sums[2][rows] = {};
    for (int start = 0;;) {
      weights.multiply(x, start, sums);
      start += 32 * gemv_loads;
      if (start >= weights.chunks) break;
      weights.load(start);
    }
    addends = arrived(addends);
    const Pair done = pair;
    index += int(gridDim.x) * gemv_warps;
    start_pair();
    float mine[2] = {};
#pragma unroll
    for (int r = 0; r < rows; ++r) {
      const float first = dev::sum_over_lanes(sums[0][r]), second = dev::sum_over_lanes(sums[1][r]);
      if (lane == r) mine[0] = first, mine[1] = second;
    }
    if (!finishes) continue;
    const uint64_t to = task.by_heads() ? destinations[lane * heads + done.a] : 0;
    task.store(step, done, lane, mine[0], mine[1], addends, to);
  }
}

/// Blocks for an even load: the fewest that finish in as many rounds as the full device would take.
unsigned gemv_blocks(int pairs, int blocks_at_once) {
  const int tasks = (pairs + gemv_warps - 1) / gemv_warps;
  const int rounds = (tasks + blocks_at_once - 1) / blocks_at_once;
  return unsigned((tasks + rounds - 1) / rounds);
}

}  // namespace

template <class T>
bool is_few(const StepLaunch& step, int heads, const RowsOf<T>& from, int rows) {
  if (rows > most_gemv_rows || step.warm_up) return false;
  return gemv_shared_bytes(rows == 3 ? 4 : rows, from.pitch, heads) <= step.device->shared_bytes;
}

template <class T>
void multiply_few(const StepLaunch& step, bool early, const Task<T>& task, const RowsOf<T>& from, int rows) {
  const int covered = rows == 3 ? 4 : rows, pairs = task.all_pairs();
  const size_t shared = gemv_shared_bytes(covered, from.pitch, task.heads());
  const int fitting = std::min(gemv_blocks_at_once(covered), std::max(1, int(step.device->shared_bytes / shared)));
  const Launch how{dim3(gemv_blocks(pairs, step.device->processors * fitting)), dim3(gemv_threads), shared, step.stream, early};
  if (covered == 1)
    launch(gemv<T, 1>, how, step.view, task, from, pairs);
  else if (covered == 2)
    launch(gemv<T, 2>, how, step.view, task, from, pairs);
  else
    launch(gemv<T, 4>, how, step.view, task, from, pairs);
}

template bool is_few(const StepLaunch&, int, const RowsOf<__half>&, int);
template bool is_few(const StepLaunch&, int, const RowsOf<__nv_bfloat16>&, int);
template void multiply_few(const StepLaunch&, bool, const Task<__half>&, const RowsOf<__half>&, int);
template void multiply_few(const StepLaunch&, bool, const Task<__nv_bfloat16>&, const RowsOf<__nv_bfloat16>&, int);

}  // namespace chai::cuda
