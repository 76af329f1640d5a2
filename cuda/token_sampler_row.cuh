// A row of logits as a draw sees it: under the repetition penalty, whole, as a slice, or as a list of what may be kept. In: logits,
// settings, ids seen. Out: ids with their logits and weights, visited by the threads of a block; the best of them.
#pragma once
#include "token_sampler_sums.cuh"

namespace chai::cuda {

constexpr int most_listed = 4096;

/// One draw's settings, in device memory.
struct DrawRecord {
  int32_t logit_row;
  float temperature, top_p, min_p, repetition_penalty;
  int32_t top_k, logprobs;
  int32_t history_count;  // 0 unless the penalty is on
  const int32_t* history;
  double uniform;  // in [0, 1)

  __device__ bool greedy() const { return !(temperature > 0) || min_p > 1; }  // the most probable has weight 1
  __device__ bool by_count(int vocabulary) const { return top_k > 0 && top_k < vocabulary; }
  __device__ bool by_rank() const { return top_p < 1; }
  __device__ bool filtered(int vocabulary) const { return by_count(vocabulary) || by_rank(); }
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

/// What may be kept: ids in rising order, and their logits under the penalty.
struct DrawnFrom {
  float logits[most_listed];
  int32_t ids[most_listed];
};

/// The row as the filters see it: at first all ids, or a slice of them; later those of the list.
struct DrawRow {
  const float* logits;   // [vocabulary]
  const uint32_t* seen;  // bit set of ids from `first` on under the penalty, or null
  int vocabulary;
  int first, end;  // ids
  float penalty;
  float best_logit, inverse_temperature;
  int listed;  // ids in the list; negative: there is none
  DrawScratch* scratch;
  DrawnFrom* list;

  __device__ DrawRow(const float* of, int vocabulary_, DrawScratch& scratch_)
      : logits(of),
        seen(nullptr),
        vocabulary(vocabulary_),
        first(0),
        end(vocabulary_),
        penalty(1),
        best_logit(0),
        inverse_temperature(1),
        listed(-1),
        scratch(&scratch_),
        list(nullptr) {}
  __device__ void heat(float best, float temperature) {
    best_logit = best, inverse_temperature = fminf(1.0f / temperature, greatest_logit);
  }
  __device__ float penalised(float x) const { return clean_logit(x < 0 ? x * penalty : x / penalty); }
  __device__ float weight(float x) const { return __expf((x - best_logit) * inverse_temperature); }
  __device__ int id_at(int place) const { return listed < 0 ? place : list->ids[place]; }
  __device__ float logit_at(int place) const {
    if (listed >= 0) return list->logits[place];
    const float x = clean_logit(logits[place]);
    return seen && (seen[(place - first) / 32] >> ((place - first) % 32) & 1) ? penalised(x) : x;
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
    if (row.vocabulary % 4 == 0 && first < row.end) {  // every row is 16-byte aligned then
      const float4 four = *reinterpret_cast<const float4*>(row.logits + first);
      x[at] = four.x, x[at + 1] = four.y, x[at + 2] = four.z, x[at + 3] = four.w;
    } else {
#pragma unroll
      for (int k = 0; k < 4; ++k) x[at + k] = first + k < row.end ? row.logits[first + k] : lowest_logit;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) x[at + k] = clean_logit(x[at + k]);
  }
  __device__ void penalise(const DrawRow& row, int first, int at) {
    const int bit = first - row.first;
    const uint32_t bits = first < row.end ? row.seen[bit / 32] >> (bit % 32) & 15 : 0;
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
#pragma unroll 2
    for (int place = int(threadIdx.x); place < row.listed; place += threads) visit(row.list->ids[place], row.list->logits[place]);
    return;
  }
#pragma unroll 1
  for (int i = row.first / 4 + int(threadIdx.x); 4 * i < row.end; i += 2 * threads) {
    const EightLogits eight(row, i, i + threads);
#pragma unroll
    for (int k = 0; k < 8; ++k) visit(4 * (k < 4 ? i : i + threads) + (k & 3), eight.x[k]);
  }
}

/// Highest logit, lowest id among equals; the lowest logit: nothing is possible.
struct Best {
  float logit = lowest_logit;
  int id = 0;
  /// word: greater for what is better.
  __device__ explicit Best(uint64_t word) {
    if (word >> 32 != 0) logit = logit_of(uint32_t(word >> 32)), id = int(0xffffffffu - uint32_t(word));
  }
};
/// The best as a word; every thread gets it.
__device__ inline uint64_t best_of_row(const DrawRow& row) {
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
  return best;
}

/// What a logit counts for: one, or its weight, nothing below `least`.
struct Mass {
  const DrawRow& row;
  bool of_count;
  float least;
  __device__ double operator()(float x) const {
    if (of_count) return 1;
    const float w = row.weight(x);
    return w < least ? 0.0 : double(w);
  }
  /// The mass to be reached: a number of ids, or a share of all weights.
  __device__ double goal(double wanted, double total) const { return of_count ? wanted : wanted * total; }
};

/// What has a mass: ids whose logit is at least `least`, which is possible; of that very logit only ids up to `last_of_least`.
struct Kept {
  float least;
  int last_of_least;
  __device__ bool has(float x, int id) const { return x > least || (x == least && id <= last_of_least); }
};

/// put(place, id, logit) for what is kept and not below `low`, places from `listed` on in the order of ids. Returns the place behind the
/// last one; more than most_listed: not all were put. Begins with a barrier.
template <class Put>
__device__ int list_kept(const DrawRow& row, const Kept& kept, float low, int listed, Put put) {
  const int threads = int(blockDim.x), warp = threadIdx.x / 32, lane = threadIdx.x & 31;
  auto* const counts = reinterpret_cast<int*>(row.scratch->sums);  // [2][most_warps]: a turn's are read while the next turn's are written
  __syncthreads();
#pragma unroll 1
  for (int first = row.first, turn = 0; first < row.end; first += 8 * threads, turn ^= 1) {
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
    if (listed > most_listed) return listed;  // all threads do
    if (taken == 0) continue;
#pragma unroll
    for (int k = 0; k < 8; ++k)
      if (taken >> k & 1) put(to++, 4 * i + k, eight.x[k]);
  }
  return listed;
}

/// The row becomes the list of what is kept and not below `low`, if there is room for it. Behind a barrier, all see it.
__device__ inline void list_from(DrawRow& row, const Kept& kept, float low) {
  const int listed = list_kept(row, kept, low, 0, [&](int to, int id, float x) { row.list->logits[to] = x, row.list->ids[to] = id; });
  if (listed > most_listed) return;
  __syncthreads();
  row.listed = listed;
}

}  // namespace chai::cuda
