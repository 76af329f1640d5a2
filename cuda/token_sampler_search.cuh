// One draw by one block: temperature, top-k, top-p, min-p, without sorting. In: a row of logits or a list of those that may be kept. Out:
// an id. The token at a given mass below the top is found by splitting the range of logits in eight, again and again. Once what may still
// be kept fits into a list in shared memory, the row is read no more. Weights are float32, their sums float64. The filters and their order
// are those of native/sampler.cpp.
#pragma once
#include "token_sampler_row.cuh"

namespace chai::cuda {

/// The search for the highest logit such that the mass of all ids from it up reaches a goal: it lies in [low, high].
struct Descent {
  float low = -greatest_logit, high = greatest_logit;
  double above = 0;  // mass above `high`
  double goal = 0;
  int passes = 0;  // so far

  __device__ bool open() const { return passes == 0 || low < high; }
  /// One more pass. sum[i]: mass in [bound[i], high]; range: of what lies in [low, high]. Returns the number of the bound at or above which
  /// what is sought must be.
  __device__ int narrow(const float (&bound)[splits], const double (&sum)[splits], const Range& range, bool strict) {
    double passed = 0;
    int from = 0;
#pragma unroll
    for (int i = splits - 1; i > 0; --i) {
      if (from == 0 && (strict ? above + sum[i] > goal : above + sum[i] >= goal)) from = i, low = fmaxf(low, bound[i]);
      if (from == 0) high = logit_below(bound[i]), passed = sum[i];
    }
    above += passed;
    low = fmaxf(low, range.least), high = fminf(high, range.most);
    ++passes;
    return from;
  }
};

/// Where a mass, counted from the highest logit down, is reached.
struct Reached {
  float logit;   // at which it is
  double above;  // mass of all higher ones
  double goal;   // the mass
};

/// Bounds low = b[0] < b[1] <= ... <= b[7] <= high: at first where the weights fall below e^-0.5, e^-2, ... e^-24.5; then in equal steps of
/// the logit, which suits how logits are spread; then in equal steps of the key, which ends after few passes whatever they are.
__device__ inline void split_range(const DrawRow& row, float low, float high, int pass, float (&bound)[splits]) {
  const uint32_t least = key_of(low), most = key_of(high), i = threadIdx.x % splits;  // a lane a bound
  uint32_t at = least + uint32_t((uint64_t(most) - least + 1) * i / splits);
  if (pass == 0) at = key_of(row.best_logit - 0.5f * float((splits - i) * (splits - i)) / row.inverse_temperature);
  if (pass > 0 && pass < 5) at = key_of(low * (1 - float(i) / splits) + high * (float(i) / splits));
  const float mine = i == 0 ? low : logit_of(min(max(at, least + 1), most));
#pragma unroll
  for (int j = 0; j < splits; ++j) bound[j] = __shfl_sync(dev::all_lanes, mine, j);
}

/// The highest logit such that the mass of all ids from it up reaches the goal (strictly: exceeds it); when it is not reached at all, the
/// lowest kept logit comes out. The row becomes the list of what is not below that, once it fits. begun: a search whose first passes are
/// over, or of none.
__device__ inline Reached descend(DrawRow& row, const Kept& kept, bool strict, double wanted, const Mass& mass, const Descent& begun) {
  Descent search = begun;
  if (begun.passes == 0) search.low = kept.least, search.high = row.best_logit;
#pragma unroll 1
  while (search.open()) {
    float bound[splits];
    double sum[splits] = {};
    Range range;
    split_range(row, search.low, search.high, search.passes, bound);
    each_id(row, [&](int id, float x) {
      if (x < search.low || x > search.high || !kept.has(x, id)) return;
      range.add(x, x);
      const double m = mass(x);
#pragma unroll
      for (int i = 0; i < splits; ++i)
        if (x >= bound[i]) sum[i] += m;
    });
    block_totals(sum, range, *row.scratch);
    if (search.passes == 0) search.goal = mass.goal(wanted, sum[0]);
    search.narrow(bound, sum, range, strict);
    if (row.listed < 0) list_from(row, kept, search.low);
  }
  return {search.low, search.above, search.goal};
}

/// The first id, in the order of ids, at which the running mass exceeds target_of(total mass); the last id of any mass when rounding leaves
/// the sum below. Negative: nothing has a mass. mass(id, logit) of one id. before: mass of ids before the row's, with the target then
/// given.
template <class Target, class Mass>
__device__ int walk(const DrawRow& row, Target target_of, Mass mass, double before = 0, double target = -1) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31, warps = blockDim.x / 32;
  double* const sums = row.scratch->sums;
  int begin = row.listed < 0 ? row.first : 0, end = row.listed < 0 ? row.end : row.listed;
#pragma unroll 1
  while (end - begin > 32) {  // a part of them a warp
    const int part = (end - begin + warps - 1) / warps, from = begin + warp * part, to = min(end, from + part);
    double sum = 0;
#pragma unroll 1
    for (int place = from + lane; place < to; place += 4 * 32) {
      float x[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) x[k] = place + 32 * k < to ? row.logit_at(place + 32 * k) : lowest_logit;
#pragma unroll
      for (int k = 0; k < 4; ++k)
        if (place + 32 * k < to) sum += mass(row.id_at(place + 32 * k), x[k]);
    }
    sum = warp_sum(sum);
    __syncthreads();
    if (lane == 0) sums[warp] = sum;
    __syncthreads();
    const double m = lane < warps ? sums[lane] : 0, upto = sum_up_to(m);
    if (target < 0) target = target_of(__shfl_sync(dev::all_lanes, upto, 31));
    const int chosen = choose_lane(m, upto, target, before);
    if (chosen < 0) return -1;
    begin += chosen * part;
    end = min(end, begin + part);
  }
  const int place = begin + lane;  // one of them a lane
  const double m = place < end ? mass(row.id_at(place), row.logit_at(place)) : 0, upto = sum_up_to(m);
  if (target < 0) target = target_of(__shfl_sync(dev::all_lanes, upto, 31));
  const int chosen = choose_lane(m, upto, target, before);
  return chosen < 0 ? -1 : row.id_at(begin + chosen);
}

/// The n-th (from 1) kept id with this very logit.
__device__ inline int nth_of_logit(const DrawRow& row, const Kept& kept, float logit, double n) {
  if (n <= 1) {
    int least = row.vocabulary;
    each_id(row, [&](int id, float x) {
      if (x == logit && kept.has(x, id)) least = min(least, id);
    });
    return block_min(least, *row.scratch);
  }
  return walk(
      row, [&](double) { return n - 1; }, [&](int id, float x) { return x == logit && kept.has(x, id) ? 1.0 : 0.0; });
}

/// The fewest equal ids that reach the goal, of which each has this mass.
__device__ inline double fewest(const Reached& at, double each, int vocabulary) {
  double count = 1;
  if (each > 0) count = fmax(1.0, ceil((at.goal - at.above) / each));
#pragma unroll 1
  while (count > 1 && at.above + (count - 1) * each >= at.goal) --count;  // the division rounds
#pragma unroll 1
  while (each > 0 && count < vocabulary && at.above + count * each < at.goal) ++count;
  return count;
}

/// The id drawn by the filters from a heated row; negative: nothing has a weight. begun: the first filter's search after some passes, or
/// none. before, target: as for walk(), where there are no filters. All threads of the block, whose size is a multiple of 32.
__device__ inline int draw_row(DrawRow& row, const DrawRecord& draw, Descent begun, double before, double target) {
  enum { top_k, top_p, drawn };
  const bool by_count = draw.by_count(row.vocabulary), by_rank = draw.by_rank();
  const float min_p = draw.min_p > 0 ? draw.min_p : 0.0f;
  Kept kept{-greatest_logit, row.vocabulary};
#pragma unroll 1
  for (int filter = top_k; filter <= drawn; ++filter) {
    if (filter == top_k ? !by_count : !by_rank) continue;
    const Mass mass{row, filter == top_k, filter == drawn ? min_p : 0};
    const double wanted = filter == top_k ? draw.top_k : filter == top_p ? double(draw.top_p) : draw.uniform;
    const Reached at = descend(row, kept, filter == drawn, wanted, mass, begun);
    begun = {};
    if (filter == top_k) {  // and what equals the k-th
      kept.least = at.logit;
      continue;
    }
    const double each = mass(at.logit);
    if (filter == drawn && !(each > 0)) return -1;
    const double n = filter == top_p ? fewest(at, each, row.vocabulary) : floor(fmax(0.0, at.goal - at.above) / each) + 1;
    const int id = nth_of_logit(row, kept, at.logit, n);
    if (filter == drawn) return id;  // highest first, as the filter left them
    kept = {at.logit, id};
  }
  const Mass mass{row, false, min_p};
  return walk(
      row, [&](double total) { return draw.uniform * total; }, [&](int i, float x) { return kept.has(x, i) ? mass(x) : 0.0; }, before,
      target);
}

}  // namespace chai::cuda
