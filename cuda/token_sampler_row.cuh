// One draw by one block: greedy, temperature, top-k, top-p, min-p, without sorting. In: a row of logits, settings, ids seen. Out: an id.
// Logits are ordered as unsigned keys; the token at a given mass below the top is found by splitting the range of keys in eight, again and
// again, with sums in float64 and in a fixed order. The filters and their order are those of native/sampler.cpp.
#pragma once
#include "dev.cuh"

namespace chai::cuda {

constexpr float lowest_logit = -__builtin_huge_valf();
constexpr float greatest_logit = 3.402823466e38f;
constexpr int splits = 7;  // bounds tried in one pass over the row
constexpr int most_warps = 32;

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
__device__ __forceinline__ float clean_logit(float logit) { return logit != logit ? lowest_logit : fminf(logit, greatest_logit); }

/// Higher logits have higher keys; both zeros the same; 0 stands for «impossible» only.
__device__ __forceinline__ uint32_t key_of(float logit) {
  if (logit == lowest_logit) return 0;
  const uint32_t bits = __float_as_uint(logit == 0 ? 0.0f : logit);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float logit_of(uint32_t key) { return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key); }

/// The row as the filters see it, and the block's scratch.
struct DrawRow {
  const float* logits;   // [vocabulary]
  const uint32_t* seen;  // bit set of ids under the penalty, or null
  int vocabulary;
  float penalty;
  double best_logit, inverse_temperature;
  double* sums;  // shared [most_warps][splits + 1]

  __device__ float logit(int id) const { return adjusted(id, logits[id]); }
  __device__ float adjusted(int id, float raw) const {
    float x = clean_logit(raw);
    if (seen && (seen[id / 32] >> (id % 32) & 1)) x = clean_logit(x < 0 ? x * penalty : x / penalty);
    return x;
  }
  __device__ double weight(float x) const { return exp((double(x) - best_logit) * inverse_temperature); }
};

/// Logits 4 i .. 4 i + 3; zeros where there are none.
__device__ __forceinline__ float4 four_logits(const DrawRow& row, int i) {
  const int first = 4 * i, left = row.vocabulary - first;
  if (left <= 0) return {};
  if (row.vocabulary % 4 == 0) return reinterpret_cast<const float4*>(row.logits)[i];  // then every row is 16-byte aligned
  const float* at = row.logits + first;
  return {at[0], left > 1 ? at[1] : 0.0f, left > 2 ? at[2] : 0.0f, left > 3 ? at[3] : 0.0f};
}

/// visit(id, logit) for the ids of this thread, always in the same order. Eight logits are under way at once; `visit` is in the code once.
template <class Visit>
__device__ void each_id(const DrawRow& row, Visit visit) {
  const int threads = int(blockDim.x);
  for (int i = int(threadIdx.x); 4 * i < row.vocabulary; i += 2 * threads) {
    const float4 a = four_logits(row, i), b = four_logits(row, i + threads);
#pragma unroll 1
    for (int k = 0; k < 8; ++k) {
      const int id = 4 * (k < 4 ? i : i + threads) + (k & 3);
      if (id >= row.vocabulary) break;
      const float4 four = k < 4 ? a : b;
      visit(id, row.adjusted(id, k & 2 ? (k & 1 ? four.w : four.z) : (k & 1 ? four.y : four.x)));
    }
  }
}

__device__ __forceinline__ double warp_sum(double x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(dev::all_lanes, x, step);
  return x;
}

/// Sums over the block in a fixed order; every thread gets them.
template <int N>
__device__ void block_sums(double (&x)[N], double* shared) {
  static_assert(N <= splits + 1);
  const int warp = threadIdx.x / 32, warps = blockDim.x / 32;
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = warp_sum(x[i]);
  __syncthreads();
  if ((threadIdx.x & 31) == 0) {
#pragma unroll
    for (int i = 0; i < N; ++i) shared[warp * N + i] = x[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < N; ++i) x[i] = 0;
#pragma unroll 1
  for (int w = 0; w < warps; ++w) {
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] += shared[w * N + i];
  }
}

/// Highest key, lowest id among equals; `key` 0: nothing is possible.
struct Best {
  uint32_t key;
  int id;
};
__device__ inline Best best_of_row(const DrawRow& row, uint64_t* shared) {
  uint64_t best = 0;  // key, then the id upside down
  each_id(row, [&](int id, float x) {
    const uint64_t mine = uint64_t(key_of(x)) << 32 | (0xffffffffu - uint32_t(id));
    if (mine > best) best = mine;
  });
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const uint64_t other = __shfl_xor_sync(dev::all_lanes, best, step);
    if (other > best) best = other;
  }
  __syncthreads();
  if ((threadIdx.x & 31) == 0) shared[threadIdx.x / 32] = best;
  __syncthreads();
#pragma unroll 1
  for (unsigned w = 0; w < blockDim.x / 32; ++w)
    if (shared[w] > best) best = shared[w];
  __syncthreads();
  return {uint32_t(best >> 32), int(0xffffffffu - uint32_t(best))};
}

/// The weight of a logit, nothing below `least`.
struct Weight {
  const DrawRow& row;
  double least;
  __device__ double operator()(float x) const {
    const double w = row.weight(x);
    return w < least ? 0.0 : w;
  }
};

/// What has a mass: ids whose key lies in [least, most]; of key `least` itself only ids up to `last_of_least`.
struct Kept {
  uint32_t least, most;
  int last_of_least;
  __device__ bool has(uint32_t key, int id) const {
    return key >= least && key <= most && key != 0 && (key > least || id <= last_of_least);
  }
};

/// Where a mass, counted from the highest key down, is reached.
struct Reached {
  uint32_t key;  // the key at which it is
  double above;  // mass of all higher keys
};

/// Seven bounds low < b[0] <= ... <= b[6] <= high: at first where the weights fall below e^-0.5, e^-2, ... e^-24.5; then in equal steps of
/// the logit, which suits how logits are spread; then in equal steps of the key, which ends after few passes whatever they are.
__device__ inline void split_range(const DrawRow& row, uint32_t low, uint32_t high, int pass, uint32_t (&bound)[splits]) {
  const double from = logit_of(low), to = logit_of(high);
#pragma unroll
  for (int i = 0; i < splits; ++i) {
    uint32_t at = low + uint32_t((uint64_t(high) - low + 1) * uint64_t(i + 1) / (splits + 1));
    if (pass == 0) at = key_of(float(row.best_logit - 0.5 * (splits - i) * (splits - i) / row.inverse_temperature));
    if (pass > 0 && pass < 5) at = key_of(float(from + (to - from) * (i + 1) / (splits + 1)));
    bound[i] = min(max(at, low + 1), high);
  }
}

/// Least and greatest key over the block; every thread gets them.
__device__ inline void block_range(uint32_t& least, uint32_t& most, double* shared) {
  auto* words = reinterpret_cast<uint32_t*>(shared);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    least = min(least, __shfl_xor_sync(dev::all_lanes, least, step));
    most = max(most, __shfl_xor_sync(dev::all_lanes, most, step));
  }
  __syncthreads();
  if ((threadIdx.x & 31) == 0) words[threadIdx.x / 32 * 2] = least, words[threadIdx.x / 32 * 2 + 1] = most;
  __syncthreads();
#pragma unroll 1
  for (unsigned w = 0; w < blockDim.x / 32; ++w) least = min(least, words[2 * w]), most = max(most, words[2 * w + 1]);
}

/// The highest key k such that the mass of keys >= k reaches `goal` (strictly: exceeds). It must be reached by all keys together; when
/// rounding denies that, the lowest kept key comes out. mass(logit) is the mass of one id.
template <class Mass>
__device__ Reached descend(const DrawRow& row, const Kept& kept, double goal, bool strict, Mass mass) {
  uint32_t low = kept.least, high = kept.most;  // the key lies in [low, high]
  double above = 0;                             // mass of keys > high
  for (int pass = 0; low < high; ++pass) {
    uint32_t bound[splits], least = 0xffffffffu, most = 0;
    double sum[splits] = {};  // mass of keys in [bound[i], high]
    split_range(row, low, high, pass, bound);
    each_id(row, [&](int id, float x) {
      const uint32_t key = key_of(x);
      if (key < low || key > high || !kept.has(key, id)) return;
      least = min(least, key), most = max(most, key);
      if (key < bound[0]) return;
      const double m = mass(x);
#pragma unroll
      for (int i = 0; i < splits; ++i)
        if (key >= bound[i]) sum[i] += m;
    });
    block_sums(sum, row.sums);
    block_range(least, most, row.sums);
    int reached = -1;  // the highest bound that reaches the goal
#pragma unroll
    for (int i = 0; i < splits; ++i)
      if (strict ? above + sum[i] > goal : above + sum[i] >= goal) reached = i;
    double passed = 0;
#pragma unroll
    for (int i = 0; i < splits; ++i) {
      if (i == reached + 1) high = bound[i] - 1, passed = sum[i];
      if (i == reached) low = bound[i];
    }
    above += passed;
    low = max(low, least), high = min(high, most);
  }
  return {low, above};
}

/// The first id, in the order of ids, at which the running mass exceeds `target`; the last id of any mass when rounding leaves the sum
/// below. Negative: nothing has a mass. mass(id) of one id.
template <class Mass>
__device__ int walk(const DrawRow& row, double target, Mass mass) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x & 31, warps = blockDim.x / 32;
  int begin = 0, end = row.vocabulary, last = -1;
  double before = 0;
  while (end - begin > 1) {
    const int part = (end - begin + warps - 1) / warps, from = begin + warp * part, to = min(end, from + part);
    double sum = 0;
    for (int id = from + lane; id < to; id += 32) sum += mass(id);
    sum = warp_sum(sum);
    __syncthreads();
    if (lane == 0) row.sums[warp] = sum;
    __syncthreads();
    int chosen = -1;
    double running = before, before_chosen = before;
#pragma unroll 1
    for (int w = 0; w < warps; ++w) {
      const double m = row.sums[w];
      if (m > 0 && (chosen < 0 || !(target < running))) chosen = w, before_chosen = running;
      running += m;
    }
    if (chosen < 0) return -1;
    before = before_chosen;
    last = begin + chosen * part;
    end = min(end, last + part), begin = last;
  }
  return begin;
}

/// log softmax(logits)[id] of the row as the model gave it, in float64.
__device__ inline float log_probability(const float* logits, int vocabulary, int id, double* shared) {
  const DrawRow plain{logits, nullptr, vocabulary, 1, 0, 1, shared};
  const Best best = best_of_row(plain, reinterpret_cast<uint64_t*>(shared));
  if (best.key == 0) return lowest_logit;
  const double greatest = logit_of(best.key);
  double sum[1] = {0};
  each_id(plain, [&](int, float x) { sum[0] += exp(double(x) - greatest); });
  block_sums(sum, shared);
  return float(double(clean_logit(logits[id])) - greatest - log(sum[0]));
}

/// Total mass of what is kept.
template <class Mass>
__device__ double total_mass(const DrawRow& row, const Kept& kept, Mass mass) {
  double sum[1] = {0};
  each_id(row, [&](int id, float x) {
    if (kept.has(key_of(x), id)) sum[0] += mass(x);
  });
  block_sums(sum, row.sums);
  return sum[0];
}

/// The k highest and what equals the k-th.
__device__ inline void keep_top_k(const DrawRow& row, Kept& kept, int k) {
  const auto one = [](float) { return 1.0; };
  if (k <= 0 || double(k) >= total_mass(row, kept, one)) return;
  kept.least = descend(row, kept, double(k), false, one).key;
}

/// The n-th (from 1) kept id with this very key.
__device__ inline int nth_of_key(const DrawRow& row, const Kept& kept, uint32_t key, double n) {
  return walk(row, n - 1, [&](int id) {
    const uint32_t mine = key_of(row.logit(id));
    return mine == key && kept.has(mine, id) ? 1.0 : 0.0;
  });
}

/// The fewest highest whose weights sum to at least p of the total; one always stays.
__device__ inline void keep_top_p(const DrawRow& row, Kept& kept, double p) {
  const Weight weight{row, 0};
  const double goal = p * total_mass(row, kept, weight);
  const Reached at = descend(row, kept, goal, false, weight);
  const double each = weight(logit_of(at.key));
  double count = 1;
  if (each > 0) count = fmax(1.0, ceil((goal - at.above) / each));
  while (count > 1 && at.above + (count - 1) * each >= goal) --count;  // the division rounds
  while (each > 0 && count < row.vocabulary && at.above + count * each < goal) ++count;
  kept.last_of_least = nth_of_key(row, kept, at.key, count);
  kept.least = at.key;
}

/// The id drawn; `shared`: at least most_warps * (splits + 1) doubles. All threads of the block, whose size is a multiple of 32.
__device__ inline int draw_row(DrawRow row, const DrawRecord& draw) {
  const Best best = best_of_row(row, reinterpret_cast<uint64_t*>(row.sums));
  if (best.key == 0) return 0;
  if (!(draw.temperature > 0) || draw.min_p > 1) return best.id;  // the most probable has weight 1
  row.best_logit = logit_of(best.key);
  row.inverse_temperature = 1.0 / double(draw.temperature);
  Kept kept{1, best.key, row.vocabulary};
  keep_top_k(row, kept, draw.top_k);
  const bool by_rank = draw.top_p < 1;
  if (by_rank) keep_top_p(row, kept, double(draw.top_p));
  const Weight counted{row, draw.min_p > 0 ? double(draw.min_p) : 0.0};
  const double target = draw.uniform * total_mass(row, kept, counted);
  int id = -1;
  if (by_rank) {  // highest first, as the filter left them
    const Reached at = descend(row, kept, target, true, counted);
    const double each = counted(logit_of(at.key));
    if (each > 0) id = nth_of_key(row, kept, at.key, floor(fmax(0.0, target - at.above) / each) + 1);
  } else {
    id = walk(row, target, [&](int i) {
      const float x = row.logit(i);
      return kept.has(key_of(x), i) ? counted(x) : 0.0;
    });
  }
  return id < 0 ? best.id : id;
}

}  // namespace chai::cuda
