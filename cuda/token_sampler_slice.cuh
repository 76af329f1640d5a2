// One draw by many blocks: each looks at a slice of the row. In: a slice of logits, settings, ids seen; what the kernels before found of
// all slices. Out: the slice's best; its share of the first passes over the row; its ids that may still be kept, behind those of the slices
// before. One block then ends the draw by what lies in DrawSlice and the list, and need not read the row.
#pragma once
#include "token_sampler_search.cuh"

namespace chai::cuda {

constexpr int slice_threads = 256, slice_ids = 8 * slice_threads;
constexpr int slice_passes = 2;  // the second only where the first leaves more than a list holds

/// A slice's share of a pass of the first filter's search.
struct SlicePass {
  float2 range;           // least and greatest logit in [low, high]
  double mass[splits];    // of logits in [bound, high]
  int32_t count[splits];  // of logits at or above each bound
};
/// What is known of a slice.
struct DrawSlice {
  uint64_t best;   // a word for Best, under the penalty
  float greatest;  // logit as the model gave it
  double sum;      // of exp(logit - greatest of the row), as the model gave them: for log-probabilities
  SlicePass passes[slice_passes];
};

/// Marks those of the history that lie in [first, end); bit 0 of `seen` is `first`. By the whole block; ends with a barrier.
__device__ inline void mark_seen(const DrawRecord& draw, int first, int end, uint32_t* seen) {
#pragma unroll 1
  for (int i = threadIdx.x; i < (end - first + 31) / 32; i += blockDim.x) seen[i] = 0;
  __syncthreads();
#pragma unroll 4
  for (int i = threadIdx.x; i < draw.history_count; i += blockDim.x) {
    const int32_t id = draw.history[i];
    if (id >= first && id < end) atomicOr(&seen[(id - first) / 32], 1u << ((id - first) % 32));
  }
  __syncthreads();
}

/// The row as the filters see it is this slice of it.
__device__ inline void take_slice(DrawRow& row, int slice) {
  row.first = slice * slice_ids;
  row.end = min(row.vocabulary, row.first + slice_ids);
}
__device__ inline void penalise(DrawRow& row, const DrawRecord& draw, uint32_t* seen) {
  if (draw.history_count == 0) return;
  mark_seen(draw, row.first, row.end, seen);
  row.seen = seen, row.penalty = draw.repetition_penalty;
}

/// The slices of a row as every warp sees them.
struct Slices {
  const DrawSlice* of;
  int count;

  /// take(slice) of each, combined by add(a, b): by each warp in the same order, and known to all its lanes.
  template <class Take, class Add>
  __device__ auto over(Take take, Add add) const {
    const int lane = int(threadIdx.x & 31);
    auto x = take(of[min(lane, count - 1)], lane < count ? lane : -1);
#pragma unroll 1
    for (int s = lane + 32; s < count; s += 32) x = add(x, take(of[s], s));
#pragma unroll
    for (int step = 16; step > 0; step /= 2) x = add(x, __shfl_xor_sync(dev::all_lanes, x, step));
    return x;
  }
  __device__ Best best() const {
    return Best(over([](const DrawSlice& s, int) { return s.best; }, [](uint64_t a, uint64_t b) { return a > b ? a : b; }));
  }
  __device__ float greatest() const {
    return over([](const DrawSlice& s, int) { return s.greatest; }, [](float a, float b) { return fmaxf(a, b); });
  }
  __device__ Range range(int pass) const {
    Range all;
    all.least = over([&](const DrawSlice& s, int) { return s.passes[pass].range.x; }, [](float a, float b) { return fminf(a, b); });
    all.most = over([&](const DrawSlice& s, int) { return s.passes[pass].range.y; }, [](float a, float b) { return fmaxf(a, b); });
    return all;
  }
  template <class Take>
  __device__ auto sum(Take take) const {
    return over([&](const DrawSlice& s, int number) { return number < 0 ? decltype(take(s, 0)){} : take(s, number); },
                [](auto a, auto b) { return a + b; });
  }
};

/// The first filter's search after the passes that all slices made.
struct SliceSearch {
  Descent search;
  int listed = most_listed + 1;  // ids that may still be kept
  int before = 0;                // of those, in slices before this block's
  __device__ bool fits() const { return listed <= most_listed; }
};

/// By the whole block of a heated row; `slice`: this block's. Up to `passes` passes are there, as many as it takes to fit into a list.
__device__ inline SliceSearch search_of(const DrawRow& row, const DrawRecord& draw, const Slices& slices, int slice, int passes) {
  SliceSearch found;
  found.search.high = row.best_logit;
  Descent& search = found.search;
  const int warp = int(threadIdx.x) / 32, warps = int(blockDim.x) / 32;
#pragma unroll 1
  while (!found.fits() && search.open() && search.passes < passes) {
    const int pass = search.passes;
    float bound[splits];
    double sum[splits];
    split_range(row, search.low, search.high, pass, bound);
    __syncthreads();
#pragma unroll 1
    for (int i = warp; i < splits; i += warps) {
      const double of_all = slices.sum([&](const DrawSlice& s, int) { return s.passes[pass].mass[i]; });
      if ((threadIdx.x & 31) == 0) row.scratch->sums[i] = of_all;
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < splits; ++i) sum[i] = row.scratch->sums[i];
    const bool by_count = draw.by_count(row.vocabulary);
    if (pass == 0) search.goal = Mass{row, by_count, 0}.goal(by_count ? double(draw.top_k) : double(draw.top_p), sum[0]);
    const int from = search.narrow(bound, sum, slices.range(pass), false);
    found.listed = slices.sum([&](const DrawSlice& s, int) { return s.passes[pass].count[from]; });
    found.before = slices.sum([&](const DrawSlice& s, int number) { return number < slice ? s.passes[pass].count[from] : 0; });
  }
  return found;
}

/// One more pass over a slice of a heated row, for the first filter or, where there is none, for the draw itself. By the whole block.
__device__ inline void sum_slice(const DrawRow& row, const DrawRecord& draw, const Descent& search, SlicePass& to) {
  const bool by_count = draw.by_count(row.vocabulary), filtered = by_count || draw.by_rank();
  const Mass mass{row, by_count, !filtered && draw.min_p > 0 ? draw.min_p : 0.0f};
  if (!filtered) {
    double all = 0;
    each_id(row, [&](int, float x) { all += mass(x); });
    all = block_sum(all, row.scratch->sums);
    if (threadIdx.x == 0) to.mass[0] = all;
    return;
  }
  float bound[splits];
  double sum[splits] = {}, counted[splits];
  int count[splits] = {};
  Range range;
  split_range(row, search.low, search.high, search.passes, bound);
  each_id(row, [&](int, float x) {
    if (x < search.low) return;
    const bool within = x <= search.high;
    if (within) range.add(x, x);
    const double m = within ? mass(x) : 0.0;
#pragma unroll
    for (int i = 0; i < splits; ++i)
      if (x >= bound[i]) sum[i] += m, ++count[i];
  });
#pragma unroll
  for (int i = 0; i < splits; ++i) counted[i] = count[i];
  block_totals(sum, range, *row.scratch);
  Range unused;
  block_totals(counted, unused, *row.scratch);
  if (threadIdx.x > 0) return;
  to.range = {range.least, range.most};
#pragma unroll
  for (int i = 0; i < splits; ++i) to.mass[i] = sum[i], to.count[i] = int32_t(counted[i]);
}

/// A row without filters but min-p, by the masses of its slices, becomes the slice in which the running mass exceeds the target. False:
/// nothing has a mass. before: mass of the slices ahead.
__device__ inline bool choose_slice(DrawRow& row, const Slices& slices, double target, double& before) {
  const int lane = int(threadIdx.x & 31);
  int chosen = -1;
  double running = 0;
#pragma unroll 1
  for (int first = 0; first < slices.count; first += 32) {
    const double m = first + lane < slices.count ? slices.of[first + lane].passes[0].mass[0] : 0, upto = sum_up_to(m);
    double ahead = running;
    const int here = choose_lane(m, upto, target, ahead);
    if (here >= 0 && (chosen < 0 || !(target < ahead))) chosen = first + here, before = ahead;
    running += __shfl_sync(dev::all_lanes, upto, 31);
  }
  if (chosen >= 0) take_slice(row, chosen);
  return chosen >= 0;
}

}  // namespace chai::cuda
