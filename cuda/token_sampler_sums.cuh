// Sums, least and greatest values over the threads of a block, in a fixed order. In: a value of each thread. Out: the same result in every
// thread.
#pragma once
#include "dev.cuh"

namespace chai::cuda {

constexpr float lowest_logit = -__builtin_huge_valf();  // of what is impossible
constexpr float greatest_logit = 3.402823466e38f;
constexpr int splits = 8;  // sums at once
constexpr int most_warps = 32;

/// A block's shared memory for sums.
struct DrawScratch {
  double sums[most_warps * splits];
  float2 ranges[most_warps];
};
__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(dev::all_lanes, x, step);
  return x;
}

/// The sum over the block in a fixed order; every thread gets it.
__device__ inline double block_sum(double x, double* shared) {
  x = warp_sum(x);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  x = 0;
#pragma unroll 1
  for (unsigned w = 0; w < blockDim.x / 32; ++w) x += shared[w];
  return x;
}

/// The least over the block; every thread gets it.
__device__ inline int block_min(int x, DrawScratch& scratch) {
  const int lane = int(threadIdx.x & 31), warps = int(blockDim.x) / 32;
  auto* const words = reinterpret_cast<int*>(scratch.sums);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = min(x, __shfl_xor_sync(dev::all_lanes, x, step));
  __syncthreads();
  if (lane == 0) words[threadIdx.x / 32] = x;
  __syncthreads();
  x = words[min(lane, warps - 1)];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = min(x, __shfl_xor_sync(dev::all_lanes, x, step));
  return x;
}

/// Least and greatest of some logits.
struct Range {
  float least = greatest_logit, most = lowest_logit;
  __device__ void add(float low, float high) { least = fminf(least, low), most = fmaxf(most, high); }
  __device__ void add_lanes(int step) { add(__shfl_xor_sync(dev::all_lanes, least, step), __shfl_xor_sync(dev::all_lanes, most, step)); }
};

/// Sums over the block in a fixed order, and the range of all ranges; every thread gets them.
__device__ inline void block_totals(double (&x)[splits], Range& range, DrawScratch& scratch) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31, warps = blockDim.x / 32;
  static_assert(splits == 8);
#pragma unroll
  for (int half = 4, step = 16; half > 0; half /= 2, step /= 2) {  // lanes with this bit keep the upper half of what they hold
    const bool upper = lane & step;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const double given = upper ? x[i] : x[i + half], kept = upper ? x[i + half] : x[i];
      x[i] = kept + __shfl_xor_sync(dev::all_lanes, given, step);
    }
  }
  double mine = x[0];  // now of sum lane / 4
  mine += __shfl_xor_sync(dev::all_lanes, mine, 2);
  mine += __shfl_xor_sync(dev::all_lanes, mine, 1);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) range.add_lanes(step);
  __syncthreads();
  if ((lane & 3) == 0) scratch.sums[warp * splits + lane / 4] = mine;
  if (lane == 0) scratch.ranges[warp] = {range.least, range.most};
  __syncthreads();
  mine = 0;
#pragma unroll 2
  for (int w = lane & 3; w < warps; w += 4) mine += scratch.sums[w * splits + lane / 4];
  mine += __shfl_xor_sync(dev::all_lanes, mine, 2);
  mine += __shfl_xor_sync(dev::all_lanes, mine, 1);
#pragma unroll
  for (int i = 0; i < splits; ++i) x[i] = __shfl_sync(dev::all_lanes, mine, 4 * i);
  const float2 of_warp = scratch.ranges[min(lane, warps - 1)];
  range.add(of_warp.x, of_warp.y);
#pragma unroll
  for (int step = most_warps / 2; step > 0; step /= 2) range.add_lanes(step);
}

/// Sums over this lane and those below it.
__device__ __forceinline__ double sum_up_to(double x) {
  const int lane = int(threadIdx.x & 31);
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const double lower = __shfl_up_sync(dev::all_lanes, x, unsigned(step));
    if (lane >= step) x += lower;
  }
  return x;
}

/// The first lane at which the running mass exceeds the target; the last of any mass when rounding leaves the sum below. Negative: none has
/// a mass. m: this lane's; upto: sum_up_to(m); before: mass before lane 0's, which becomes that before the chosen lane's.
__device__ __forceinline__ int choose_lane(double m, double upto, double target, double& before) {
  const double below = __shfl_up_sync(dev::all_lanes, upto, 1);
  const double running = (threadIdx.x & 31) == 0 ? before : before + below;
  const uint32_t some = __ballot_sync(dev::all_lanes, m > 0), reached = __ballot_sync(dev::all_lanes, m > 0 && !(target < running));
  if (some == 0) return -1;
  const int chosen = reached ? 31 - __clz(int(reached)) : __ffs(int(some)) - 1;
  before = __shfl_sync(dev::all_lanes, running, chosen);
  return chosen;
}

}  // namespace chai::cuda
