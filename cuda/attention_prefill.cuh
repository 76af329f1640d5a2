// What the prefill kernels share: arguments, which work a block takes, which keys its rows see, the running softmax of rows. In: head
// tables, segments, scores. Out: a score slot and V slots, ranges of positions, weights.
#pragma once
#include "attention_plan.h"

namespace chai::cuda {

constexpr float nothing = -INFINITY;  // the score of a key that a row does not see

struct PrefillArguments {
  const StepView* view;
  Geometry geometry;
  const PrefillTile* tiles;
  const void* const* queries;
  void* mixed;
  int32_t layer, query_pitch;
  Element compute;  // of mixed; queries are of the cache type
  int32_t stages;   // tiles of keys and values in shared memory, where the kernel leaves that open
};

/// Rows of a tile and the keys they see.
struct Extent {
  int position, rows;  // of the first row; rows in the tile
  int first, end;      // keys [first, end)
};

__device__ __forceinline__ Extent extent_of(const Geometry& g, const SegmentRecord& segment, int first_row, int most_rows) {
  Extent extent;
  extent.position = segment.position + first_row;
  extent.rows = min(most_rows, segment.count - first_row);
  extent.first = first_key(g.sliding_window, extent.position);
  extent.end = extent.position + extent.rows;
  return extent;
}

/// What one block computes.
template <int R>
struct Work {
  int32_t slot;      // score slot; -1: nothing
  int32_t value[R];  // V slots, -1 where there is none
};

/// By one warp: the group'th set of a score slot and up to R V slots, in the order of the heads that first use them.
template <int R>
__device__ __forceinline__ void find_work(const Geometry& g, const SegmentTables& tables, int group, int32_t* score, int32_t* value,
                                          int32_t* rank, Work<R>& work) {
  const int lane = threadIdx.x & 31;
  for (int h = lane; h < g.heads; h += 32) {
    score[h] = tables.own[g.score_of_query() + h];
    value[h] = tables.own[g.value_of_query() + h];
  }
  if (lane == 0) {
    work.slot = -1;
    for (int i = 0; i < R; ++i) work.value[i] = -1;
  }
  __syncwarp();
  for (int h = lane; h < g.heads; h += 32) {
    bool first = true;
    for (int i = 0; i < h; ++i) first &= score[i] != score[h] || value[i] != value[h];
    rank[h] = first ? 0 : -1;
  }
  __syncwarp();
  int seen = 0;
  for (int base = 0; base < g.heads; base += 32) {  // ranks of earlier heads are only tested for their sign
    const int h = base + lane;
    int before = -1;
    if (h < g.heads && rank[h] >= 0) {
      before = 0;
      for (int i = 0; i < h; ++i) before += rank[i] >= 0 && score[i] == score[h];
    }
    __syncwarp();
    if (before > 0) rank[h] = before;
    const uint32_t leaders = __ballot_sync(dev::all_lanes, before >= 0 && before % R == 0);
    if (before >= 0 && before % R == 0 && seen + __popc(leaders & ((1u << lane) - 1)) == group) {
      work.slot = score[h];
      work.value[0] = value[h];
    }
    seen += __popc(leaders);
    __syncwarp();
  }
  if (R == 1 || work.slot < 0) return;
  int leader = 0;
  while (score[leader] != work.slot || value[leader] != work.value[0]) ++leader;
  for (int h = lane; h < g.heads; h += 32) {
    const int place = rank[h] - rank[leader];
    if (rank[h] >= 0 && score[h] == work.slot && place > 0 && place < R) work.value[place] = value[h];
  }
}

/// Of a warp's 16 rows: raw maxima, and sums of this lane's columns. A lane has rows lane / 4 and 8 further, of every 8 columns those at
/// 2 * (lane % 4), as the accumulators of mma.sync and wgmma lie: element i of a row's is of column i / 4 * 8 + i % 2, of row i / 2 % 2.
struct RowSoftmax {
  float most[2] = {nothing, nothing}, sum[2] = {0, 0};

  __device__ __forceinline__ float sum_of_row(int row) const {
    float all = sum[row];
    all += __shfl_xor_sync(dev::all_lanes, all, 1);
    all += __shfl_xor_sync(dev::all_lanes, all, 2);
    return all;
  }
};

/// Scores become weights; sums and maxima are brought up to date. `key`: of the lane's first column, `row`: of its first row; `masked`:
/// whether some row does not see all of the keys. Gives what the sums so far are to be multiplied with.
template <int count>
__device__ __forceinline__ float2 weigh(float (&scores)[count], int key, int row, int window, bool masked, float scale,
                                        RowSoftmax& running) {
  if (masked) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const int at = i / 4 * 8 + (i & 1), last = row - key + (i >> 1 & 1) * 8, before = window > 0 ? last - window : -1;
      if ((at > last) | (at <= before)) scores[i] = nothing;
    }
  }
  // Two chains a row: one after the other each would wait for the last.
  float most[2][2] = {{running.most[0], running.most[0]}, {running.most[1], running.most[1]}};
#pragma unroll
  for (int i = 0; i < count; ++i) most[i >> 1 & 1][i & 1] = fmaxf(most[i >> 1 & 1][i & 1], scores[i]);
  float factor[2], base[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float all = fmaxf(most[r][0], most[r][1]);
    all = fmaxf(all, __shfl_xor_sync(dev::all_lanes, all, 1));
    all = fmaxf(all, __shfl_xor_sync(dev::all_lanes, all, 2));
    const float top = all == nothing ? 0.0f : all;  // no key seen so far: all weights are zero
    base[r] = top * scale;
    factor[r] = dev::exp2_fast((running.most[r] - top) * scale);  // exactly one where `top` stays: a multiply-add would leave its rounding
    running.most[r] = all;
  }
  float sum[2][2] = {};
#pragma unroll
  for (int i = 0; i < count; ++i) sum[i >> 1 & 1][i & 1] += scores[i] = dev::exp2_fast(fmaf(scores[i], scale, -base[i >> 1 & 1]));
#pragma unroll
  for (int r = 0; r < 2; ++r) running.sum[r] = fmaf(running.sum[r], factor[r], sum[r][0] + sum[r][1]);
  return make_float2(factor[0], factor[1]);
}

/// Weights as the first matrix of the next product: accumulators and fragments hold the same elements.
template <class T, int count>
__device__ __forceinline__ void pack_weights(const float (&scores)[count], uint32_t (&weights)[count / 8][4]) {
#pragma unroll
  for (int i = 0; i < count / 2; ++i) weights[i / 4][i % 4] = dev::pack2<T>(scores[2 * i], scores[2 * i + 1]);
}

/// A factor of one leaves the bits as they are, and after the first tiles hardly any row finds a greater score.
template <int count>
__device__ __forceinline__ void rescale(float2 factor, float (&out)[count]) {
  if (!__any_sync(dev::all_lanes, factor.x != 1 || factor.y != 1)) return;
#pragma unroll
  for (int n = 0; n < count; ++n) out[n] *= n & 2 ? factor.y : factor.x;
}

}  // namespace chai::cuda
