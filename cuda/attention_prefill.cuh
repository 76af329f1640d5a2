// What the prefill kernels share: arguments, which work a block takes, which keys its rows see. In: head tables, segments. Out: a score
// slot and V slots, ranges of positions.
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

}  // namespace chai::cuda
