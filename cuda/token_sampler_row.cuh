// One draw by one block: greedy, temperature, top-k, top-p, min-p, without sorting. In: a row of logits, settings, ids seen. Out: an id.
// The token at a given mass below the top is found by splitting the range of logits in eight, again and again. After the first split what
// may still be kept is listed in shared memory, and the row is read no more. Weights are float32, their sums float64 and formed in a fixed
// order. The filters and their order are those of native/sampler.cpp.
#pragma once
#include "dev.cuh"

namespace chai::cuda {

constexpr float lowest_logit = -__builtin_huge_valf();  // of what is impossible
constexpr float greatest_logit = 3.402823466e38f;
constexpr int splits = 8;  // of a range of logits
constexpr int most_warps = 32;
constexpr int most_listed = 4096;

/// One draw's settings, in device memory.
struct DrawRecord {
  int32_t logit_row;
  float temperature, top_p, min_p, repetition_penalty;
  int32_t top_k, logprobs;
  int32_t history_count;  // 0 unless the penalty is on
  const int32_t* history;
  double uniform;  // in [0, 1)
};

/// NaN counts as impossible, overflow as the greatest number.
__device__ __forceinline__ float clean_logit(float logit) { return fminf(fmaxf(logit, lowest_logit), greatest_logit); }

/// Higher logits have higher keys; both zeros the same; 0 stands for «impossible» only.
__device__ __forceinline__ uint32_t key_of(float logit) {
  if (logit == lowest_logit) return 0;
  const uint32_t bits = __float_as_uint(logit == 0 ? 0.0f : logit);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float logit_of(uint32_t key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

/// The highest logit below this one, which is not the lowest.
__device__ __forceinline__ float logit_below(float logit) {
  const uint32_t key = key_of(logit) - 1;
  return logit_of(key == 0x7fffffffu ? key - 1 : key);  // that is the other zero
}

/// A block's shared memory.
struct DrawScratch {
  double sums[most_warps * splits];
  float2 ranges[most_warps];
  float logits[most_listed];  // the list: ids in rising order, and their logits under the penalty
  int32_t ids[most_listed];
};

/// The row as the filters see it: at first all ids, later those of the list.
struct DrawRow {
  const float* logits;   // [vocabulary]
  const uint32_t* seen;  // bit set of ids under the penalty, or null
  int vocabulary;
  float penalty;
  float best_logit, inverse_temperature;
  int listed;  // ids in the list; negative: there is none
  DrawScratch* scratch;

  __device__ float penalised(float x) const { return clean_logit(x < 0 ? x * penalty : x / penalty); }
  __device__ float weight(float x) const { return __expf((x - best_logit) * inverse_temperature); }
  __device__ int places() const { return listed < 0 ? vocabulary : listed; }
  __device__ int id_at(int place) const { return listed < 0 ? place : scratch->ids[place]; }
  __device__ float logit_at(int place) const {
    if (listed >= 0) return scratch->logits[place];
    const float x = clean_logit(logits[place]);
    return seen && (seen[place / 32] >> (place % 32) & 1) ? penalised(x) : x;
  }
};

/// Eight logits under the penalty: of ids 4 i .. 4 i + 3 and 4 j .. 4 j + 3; the lowest where there is none.
struct EightLogits {
  float x[8];
  __device__ EightLogits(const DrawRow& row, int i, int j) {
    read(row, 4 * i, 0);
    read(row, 4 * j, 4);
    if (!row.seen) return;
    penalise(row, 4 * i, 0);
    penalise(row, 4 * j, 4);
  }

 private:
  __device__ void read(const DrawRow& row, int first, int at) {
    if (row.vocabulary % 4 == 0 && first < row.vocabulary) {  // every row is 16-byte aligned then
      const float4 four = *reinterpret_cast<const float4*>(row.logits + first);
      x[at] = four.x, x[at + 1] = four.y, x[at + 2] = four.z, x[at + 3] = four.w;
    } else {
#pragma unroll
      for (int k = 0; k < 4; ++k) x[at + k] = first + k < row.vocabulary ? row.logits[first + k] : lowest_logit;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) x[at + k] = clean_logit(x[at + k]);
  }
  __device__ void penalise(const DrawRow& row, int first, int at) {
    const uint32_t bits = first < row.vocabulary ? row.seen[first / 32] >> (first % 32) & 15 : 0;
#pragma unroll
    for (int k = 0; k < 4; ++k)
      if (bits >> k & 1) x[at + k] = row.penalised(x[at + k]);
  }
};

/// visit(id, logit) for the ids of this thread, always in the same order; the lowest logit may come with an id that there is not.
template <class Visit>
__device__ void each_id(const DrawRow& row, Visit visit) {
  const int threads = int(blockDim.x);
  if (row.listed >= 0) {
    for (int place = int(threadIdx.x); place < row.listed; place += threads) visit(row.scratch->ids[place], row.scratch->logits[place]);
    return;
  }
  for (int i = int(threadIdx.x); 4 * i < row.vocabulary; i += 2 * threads) {
    const EightLogits eight(row, i, i + threads);
#pragma unroll
    for (int k = 0; k < 8; ++k) visit(4 * (k < 4 ? i : i + threads) + (k & 3), eight.x[k]);
  }
}

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

/// Least and greatest of some logits.
struct Range {
  float least = greatest_logit, most = lowest_logit;
  __device__ void add(float low, float high) { least = fminf(least, low), most = fmaxf(most, high); }
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
  for (int step = 16; step > 0; step /= 2) {
    const float least = __shfl_xor_sync(dev::all_lanes, range.least, step), most = __shfl_xor_sync(dev::all_lanes, range.most, step);
    range.add(least, most);
  }
  __syncthreads();
  if ((lane & 3) == 0) scratch.sums[warp * splits + lane / 4] = mine;
  if (lane == 0) scratch.ranges[warp] = {range.least, range.most};
  __syncthreads();
  mine = 0;
  for (int w = lane & 3; w < warps; w += 4) mine += scratch.sums[w * splits + lane / 4];
  mine += __shfl_xor_sync(dev::all_lanes, mine, 2);
  mine += __shfl_xor_sync(dev::all_lanes, mine, 1);
#pragma unroll
  for (int i = 0; i < splits; ++i) x[i] = __shfl_sync(dev::all_lanes, mine, 4 * i);
#pragma unroll 4
  for (int w = 0; w < warps; ++w) range.add(scratch.ranges[w].x, scratch.ranges[w].y);
}

/// Highest logit, lowest id among equals; the lowest logit: nothing is possible.
struct Best {
  float logit;
  int id;
};
__device__ inline Best best_of_row(const DrawRow& row) {
  auto* words = reinterpret_cast<uint64_t*>(row.scratch->sums);
  float most = lowest_logit;
  int at = 0;
  each_id(row, [&](int id, float x) {
    if (x > most) most = x, at = id;  // a thread's ids rise
  });
  uint64_t best = uint64_t(key_of(most)) << 32 | (0xffffffffu - uint32_t(at));
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const uint64_t other = __shfl_xor_sync(dev::all_lanes, best, step);
    if (other > best) best = other;
  }
  __syncthreads();
  if ((threadIdx.x & 31) == 0) words[threadIdx.x / 32] = best;
  __syncthreads();
#pragma unroll 1
  for (unsigned w = 0; w < blockDim.x / 32; ++w)
    if (words[w] > best) best = words[w];
  if (best >> 32 == 0) return {lowest_logit, 0};
  return {logit_of(uint32_t(best >> 32)), int(0xffffffffu - uint32_t(best))};
}

/// The weight of a logit, nothing below `least`.
struct Weight {
  const DrawRow& row;
  float least;
  __device__ double operator()(float x) const {
    const float w = row.weight(x);
    return w < least ? 0.0 : double(w);
  }
};

/// What has a mass: ids whose logit is at least `least`, which is possible; of that very logit only ids up to `last_of_least`.
struct Kept {
  float least;
  int last_of_least;
  __device__ bool has(float x, int id) const { return x > least || (x == least && id <= last_of_least); }
};

/// Lists what is kept and not below `low`, if there is room for it: the row is then that list. Begins with a barrier; behind one, all see
/// the list.
__device__ inline void list_from(DrawRow& row, const Kept& kept, float low) {
  const int threads = int(blockDim.x), warp = threadIdx.x / 32, lane = threadIdx.x & 31;
  auto* const counts = reinterpret_cast<int*>(row.scratch->sums);  // [2][most_warps]: a turn's are read while the next turn's are written
  int listed = 0;
  __syncthreads();
  for (int first = 0, turn = 0; first < row.vocabulary; first += 8 * threads, turn ^= 1) {
    const int i = first / 4 + 2 * int(threadIdx.x);
    const EightLogits eight(row, i, i + 1);
    uint32_t taken = 0;
#pragma unroll
    for (int k = 0; k < 8; ++k)
      if (eight.x[k] >= low && kept.has(eight.x[k], 4 * i + k)) taken |= 1u << k;
    const int mine = __popc(taken);
    int upto = mine;  // of this warp's lanes up to this one
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int lower = __shfl_up_sync(dev::all_lanes, upto, unsigned(step));
      if (lane >= step) upto += lower;
    }
    if (lane == 31) counts[turn * most_warps + warp] = upto;
    __syncthreads();
    int to = listed + upto - mine;
#pragma unroll 4
    for (int w = 0; w < threads / 32; ++w) {
      const int count = counts[turn * most_warps + w];
      listed += count, to += w < warp ? count : 0;
    }
    if (listed > most_listed) return;  // all threads do
    if (taken == 0) continue;
#pragma unroll
    for (int k = 0; k < 8; ++k)
      if (taken >> k & 1) row.scratch->logits[to] = eight.x[k], row.scratch->ids[to++] = 4 * i + k;
  }
  __syncthreads();
  row.listed = listed;
}

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

/// The highest logit such that the mass of all ids from it up reaches goal_of(total mass) (strictly: exceeds); when it is not reached at
/// all, the lowest kept logit comes out. mass(logit) is the mass of one id. The row becomes the list of what is not below that, once it
/// fits.
template <class Goal, class Mass>
__device__ Reached descend(DrawRow& row, const Kept& kept, bool strict, Goal goal_of, Mass mass) {
  float low = kept.least, high = row.best_logit;  // what is sought lies in [low, high]
  double above = 0, goal = 0;                     // mass above `high`
  for (int pass = 0; pass == 0 || low < high; ++pass) {
    float bound[splits];
    double sum[splits] = {};  // mass in [bound[i], high]
    Range range;
    split_range(row, low, high, pass, bound);
    each_id(row, [&](int id, float x) {
      if (x < low || x > high || !kept.has(x, id)) return;
      range.add(x, x);
      const double m = mass(x);
#pragma unroll
      for (int i = 0; i < splits; ++i)
        if (x >= bound[i]) sum[i] += m;
    });
    block_totals(sum, range, *row.scratch);
    if (pass == 0) goal = goal_of(sum[0]);
    double passed = 0;
    bool reached = false;
#pragma unroll
    for (int i = splits - 1; i > 0; --i) {
      reached = reached || (strict ? above + sum[i] > goal : above + sum[i] >= goal);
      if (!reached) high = logit_below(bound[i]), passed = sum[i];
      if (reached) low = fmaxf(low, bound[i]);
    }
    above += passed;
    low = fmaxf(low, range.least), high = fminf(high, range.most);
    if (row.listed < 0 && pass < 2) list_from(row, kept, low);
  }
  return {low, above, goal};
}

/// The first id, in the order of ids, at which the running mass exceeds target_of(total mass); the last id of any mass when rounding leaves
/// the sum below. Negative: nothing has a mass. mass(id, logit) of one id.
template <class Target, class Mass>
__device__ int walk(const DrawRow& row, Target target_of, Mass mass) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31, warps = blockDim.x / 32;
  double* const sums = row.scratch->sums;
  int begin = 0, end = row.places();
  double before = 0, target = -1;
  do {
    const int part = (end - begin + warps - 1) / warps, from = begin + warp * part, to = min(end, from + part);
    double sum = 0;
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
    if (target < 0) {
      double total = 0;
#pragma unroll 4
      for (int w = 0; w < warps; ++w) total += sums[w];
      target = target_of(total);
    }
    int chosen = -1;
    double running = before, before_chosen = before;
#pragma unroll 4
    for (int w = 0; w < warps; ++w) {
      const double m = sums[w];
      if (m > 0 && (chosen < 0 || !(target < running))) chosen = w, before_chosen = running;
      running += m;
    }
    if (chosen < 0) return -1;
    before = before_chosen;
    begin += chosen * part;
    end = min(end, begin + part);
  } while (end - begin > 1);
  return row.id_at(begin);
}

/// log softmax(logits)[id] of a row as the model gave it; `greatest`: its highest logit.
__device__ inline float log_probability(const DrawRow& plain, int id, float greatest) {
  if (greatest == lowest_logit) return lowest_logit;
  double sum = 0;
  each_id(plain, [&](int, float x) { sum += double(__expf(x - greatest)); });
  sum = block_sum(sum, plain.scratch->sums);
  return float(double(clean_logit(plain.logits[id])) - double(greatest) - log(sum));
}

/// The k highest and what equals the k-th.
__device__ inline void keep_top_k(DrawRow& row, Kept& kept, int k) {
  if (k <= 0 || k >= row.vocabulary) return;
  kept.least = descend(
                   row, kept, false, [&](double) { return double(k); }, [](float) { return 1.0; })
                   .logit;
}

/// The n-th (from 1) kept id with this very logit.
__device__ inline int nth_of_logit(const DrawRow& row, const Kept& kept, float logit, double n) {
  return walk(
      row, [&](double) { return n - 1; }, [&](int id, float x) { return x == logit && kept.has(x, id) ? 1.0 : 0.0; });
}

/// The fewest highest whose weights sum to at least p of the total; one always stays.
__device__ inline void keep_top_p(DrawRow& row, Kept& kept, double p) {
  const Weight weight{row, 0};
  const Reached at = descend(
      row, kept, false, [&](double total) { return p * total; }, weight);
  const double each = weight(at.logit);
  double count = 1;
  if (each > 0) count = fmax(1.0, ceil((at.goal - at.above) / each));
  while (count > 1 && at.above + (count - 1) * each >= at.goal) --count;  // the division rounds
  while (each > 0 && count < row.vocabulary && at.above + count * each < at.goal) ++count;
  kept.last_of_least = nth_of_logit(row, kept, at.logit, count);
  kept.least = at.logit;
}

/// The id drawn from a row whose best is known. All threads of the block, whose size is a multiple of 32.
__device__ inline int draw_row(DrawRow row, const DrawRecord& draw, const Best& best) {
  if (best.logit == lowest_logit) return 0;
  if (!(draw.temperature > 0) || draw.min_p > 1) return best.id;  // the most probable has weight 1
  row.best_logit = best.logit;
  row.inverse_temperature = fminf(1.0f / draw.temperature, greatest_logit);
  Kept kept{-greatest_logit, row.vocabulary};
  keep_top_k(row, kept, draw.top_k);
  const bool by_rank = draw.top_p < 1;
  if (by_rank) keep_top_p(row, kept, double(draw.top_p));
  const Weight counted{row, draw.min_p > 0 ? draw.min_p : 0.0f};
  const auto target_of = [&](double total) { return draw.uniform * total; };
  int id = -1;
  if (by_rank) {  // highest first, as the filter left them
    const Reached at = descend(row, kept, true, target_of, counted);
    const double each = counted(at.logit);
    if (each > 0) id = nth_of_logit(row, kept, at.logit, floor(fmax(0.0, at.goal - at.above) / each) + 1);
  } else {
    id = walk(row, target_of, [&](int i, float x) { return kept.has(x, i) ? counted(x) : 0.0; });
  }
  return id < 0 ? best.id : id;
}

}  // namespace chai::cuda
