// Cuts the decode attention of a step into even shares, on the device, for one layer or all of them. In: StepView, head tables.
// Out: groups of score rows that read the same keys and values, and where each worker begins (DecodePlan).
#include "attention_plan.h"
#include "launch.cuh"

namespace chai::cuda {
namespace {

constexpr int plan_threads = 256, plan_warps = plan_threads / 32;

/// Of one segment, in shared memory. A head leads a group when it is the first to use the group's first V slot.
struct HeadWork {
  int32_t* key_of_score;  // [scores]
  int32_t* bundle;        // [H] which score slots a head is computed with: key slot << 16 | bundle of its slots
  int32_t* value;         // [H] V slot
  int32_t* rank;          // [H] place of the value among its bundle's; -1: an earlier head of the bundle uses it
  __device__ HeadWork(int32_t* memory, int heads)
      : key_of_score(memory), bundle(memory + heads), value(memory + 2 * heads), rank(memory + 3 * heads) {}
  __device__ bool leads(int h, int width) const { return rank[h] >= 0 && rank[h] % width == 0; }
};

__device__ bool is_decode(const SegmentRecord& segment) { return !segment.warm_up && segment.count <= decode_rows; }

/// By one warp: sorts the heads of a segment into groups.
__device__ void find_groups(const Geometry& g, const SegmentTables& tables, int count, HeadWork& work) {
  const int lane = threadIdx.x & 31, slots_at_once = max(1, decode_rows / count);
  const int scores = tables.source[0];
  for (int s = lane; s < scores; s += 32) work.key_of_score[s] = tables.source[g.key_of_score() + s];
  __syncwarp();
  for (int h = lane; h < g.heads; h += 32) {
    const int s = tables.own[g.score_of_query() + h], key = work.key_of_score[s];
    int before = 0;
    for (int i = 0; i < s; ++i) before += work.key_of_score[i] == key;
    work.bundle[h] = key << 16 | before / slots_at_once;
    work.value[h] = tables.own[g.value_of_query() + h];
  }
  __syncwarp();
  for (int h = lane; h < g.heads; h += 32) {
    bool first = true;
    for (int i = 0; i < h; ++i) first &= work.bundle[i] != work.bundle[h] || work.value[i] != work.value[h];
    work.rank[h] = first ? 0 : -1;
  }
  __syncwarp();
  for (int base = 0; base < g.heads; base += 32) {
    const int h = base + lane;
    int before = -1;
    if (h < g.heads && work.rank[h] >= 0) {
      before = 0;
      for (int i = 0; i < h; ++i) before += work.rank[i] >= 0 && work.bundle[i] == work.bundle[h];
    }
    __syncwarp();
    if (before > 0) work.rank[h] = before;
    __syncwarp();
  }
}

__device__ int first_tile(const Geometry& g, const SegmentRecord& segment, int tokens) {
  return first_key(g.sliding_window, segment.position) / tokens;
}
__device__ int tiles_of(const Geometry& g, const SegmentRecord& segment, int tokens) {
  return (segment.position + segment.count + tokens - 1) / tokens - first_tile(g, segment, tokens);
}

/// Writes a group where it belongs: lists that are indexed have no place in registers.
__device__ void describe(const StepView& view, const Geometry& g, const SegmentRecord& segment, const SegmentTables& tables, int layer,
                         const HeadWork& work, int leader, int width, int tokens, DecodeGroup& group) {
  const int bundle = work.bundle[leader], key = bundle >> 16, rank = work.rank[leader];
  const PageList keys = key_pages(view, g, segment, tables.scores_from, key);
  group = {};
  group.key_ids = keys.ids, group.key_stride = int32_t(keys.stride);
  const int slots_at_once = max(1, decode_rows / segment.count);
  int before = 0, slots = 0, values = 0;
  for (int s = 0; s < tables.source[0]; ++s) {
    if (work.key_of_score[s] != key) continue;
    if (before++ / slots_at_once == (bundle & 0xffff)) group.slots[slots++] = int16_t(s);
  }
  for (int h = leader; h < g.heads; ++h) {
    if (work.bundle[h] != bundle || work.rank[h] < rank || work.rank[h] >= rank + width) continue;
    const PageList pages = value_pages(view, segment, layer, work.value[h]);
    group.value_stride = int32_t(pages.stride);
    group.value_ids[values] = pages.ids;
    group.values[values++] = int16_t(work.value[h]);
  }
  group.slot_count = int16_t(slots), group.value_count = int16_t(values);
  group.own = tables.own;
  group.pool = view.pool, group.page_bytes = view.page_bytes, group.head_dim = g.head_dim;
  group.row = segment.row, group.count = segment.count, group.position = segment.position;
  group.scores_from = tables.scores_from;
  group.first_tile = first_tile(g, segment, tokens);
  group.tiles = tiles_of(g, segment, tokens);
}

/// Inclusive sum over the block's threads.
__device__ int64_t running_sum(int64_t x, int64_t* warp_sums) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (int step = 1; step < 32; step *= 2) {
    const int64_t other = __shfl_up_sync(dev::all_lanes, x, unsigned(step));
    if (lane >= step) x += other;
  }
  if (lane == 31) warp_sums[warp] = x;
  __syncthreads();
  for (int w = 0; w < warp; ++w) x += warp_sums[w];
  return x;
}

/// Turns counts into the sums of what stands before each; returns the total. value(i) reads, store(i, before) writes.
template <class Value, class Store>
__device__ int64_t sums_before(int count, int64_t* warp_sums, Value value, Store store) {
  int64_t total = 0;
  for (int base = 0; base < count; base += plan_threads) {
    const int i = base + int(threadIdx.x);
    const int64_t own = i < count ? value(i) : 0;
    const int64_t through = running_sum(own, warp_sums);
    if (i < count) store(i, total + through - own);
    for (int w = 0; w < plan_warps; ++w) total += warp_sums[w];
    __syncthreads();
  }
  return total;
}

struct PlanArguments {
  const StepView* view;
  Geometry geometry;
  DecodePlan plan;
  int32_t first_layer, tokens;
  int32_t most_values;  // V slots of a group
};

/// V slots of this step's groups, the same in every thread. The keys of a slot are read once a group. In a step with much to read that is
/// from device memory each time, hence wide groups. Shares of little are cut more evenly from narrow ones, and what is read twice lies in
/// the L2 cache.
__device__ int group_width(const PlanArguments& a, const StepView& view) {
  int64_t tiles = 0;
  for (int base = 0; base < view.segments; base += 32) {
    const int i = base + int(threadIdx.x & 31);
    if (i < view.segments && is_decode(view.segment[i])) tiles += tiles_of(a.geometry, view.segment[i], a.tokens);
  }
  for (int step = 16; step > 0; step /= 2) tiles += __shfl_xor_sync(dev::all_lanes, tiles, step);
  return tiles * a.geometry.key_value_heads >= int64_t(wide_share) * a.plan.workers ? a.most_values : min(a.most_values, few_values);
}

__device__ void note_workers(const DecodeGroup& group, int64_t share, int workers, int index, int32_t* first_group) {
  const int64_t end = group.start + int64_t(group.tiles) * (1 + group.value_count);
  for (int64_t w = (group.start + share - 1) / share; w < workers && w * share < end; ++w) first_group[w] = index;
}

/// One block a layer.
__global__ void __launch_bounds__(plan_threads, 1) plan_kernel(PlanArguments a) {
  DEV_DYN_SMEM(int32_t, memory);
  __shared__ int64_t warp_sums[plan_warps];
  const StepView& view = *a.view;
  const Geometry& g = a.geometry;
  const int layer = a.first_layer + int(blockIdx.x), warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  DecodeGroup* groups = a.plan.groups + int64_t(layer) * a.plan.capacity;
  int32_t* counts = a.plan.counts + int64_t(layer) * a.plan.sequences;
  HeadWork work(memory + warp * 4 * g.heads, g.heads);
  const int width = group_width(a, view);

  // Decode segments in their order, counted by pass 0, described by pass 1. There is at most one a sequence.
  for (int pass = 0; pass < 2; ++pass) {
    int seen = 0;
    for (int i = 0; i < view.segments; ++i) {
      const SegmentRecord segment = view.segment[i];
      if (!is_decode(segment) || seen >= a.plan.sequences) continue;
      const int place = seen++;
      if (place % plan_warps != warp) continue;
      const SegmentTables tables = tables_of(view, g, segment, layer);
      __syncwarp();
      find_groups(g, tables, segment.count, work);
      int at = pass == 0 ? 0 : counts[place];
      for (int base = 0; base < g.heads; base += 32) {
        const int h = base + lane;
        const bool leads = h < g.heads && work.leads(h, width);
        const uint32_t leaders = __ballot_sync(dev::all_lanes, leads);
        if (pass == 1 && leads)
          describe(view, g, segment, tables, layer, work, h, width, a.tokens, groups[at + __popc(leaders & ((1u << lane) - 1))]);
        at += __popc(leaders);
      }
      if (pass == 0 && lane == 0) counts[place] = at;
    }
    __syncthreads();
    if (pass == 0) {
      const int64_t total = sums_before(
          seen, warp_sums, [&](int i) { return int64_t(counts[i]); }, [&](int i, int64_t sum) { counts[i] = int32_t(sum); });
      if (threadIdx.x == 0) a.plan.header[layer].groups = int32_t(total);
      __syncthreads();
    }
  }
  DecodeHeader& header = a.plan.header[layer];
  const int count = header.groups;
  const int64_t total = sums_before(
      count, warp_sums, [&](int i) { return int64_t(groups[i].tiles) * (1 + groups[i].value_count); },
      [&](int i, int64_t sum) { groups[i].start = sum; });
  // A worker within a group has a tile of it at least: leave_part counts on that.
  const int64_t share = max(int64_t(max(least_share, 1 + width)), (total + a.plan.workers - 1) / a.plan.workers);
  if (threadIdx.x == 0) header.total = total, header.share = share;
  int32_t* first_group = a.plan.first_group + int64_t(layer) * a.plan.workers;
  for (int i = int(threadIdx.x); i < count; i += plan_threads) note_workers(groups[i], share, a.plan.workers, i, first_group);
  const int busy = int(min(int64_t(a.plan.workers), (total + share - 1) / share));  // the others read theirs before they know
  for (int w = busy + int(threadIdx.x); w < a.plan.workers; w += plan_threads) first_group[w] = 0;
}

}  // namespace

void plan_decode(const StepLaunch& step, const DecodePlan& plan, int first_layer, int layers) {
  int tokens = 0;
  with_head_size(step.geometry.head_dim, [&](auto size) { tokens = tile_tokens<decltype(size)::value>; });
  const size_t shared = size_t(plan_warps) * 4 * size_t(step.geometry.heads) * sizeof(int32_t);
  launch(plan_kernel, {unsigned(layers), plan_threads, shared, step.stream},
         PlanArguments{step.view, step.geometry, plan, first_layer, tokens, decode_values(step.geometry.head_dim)});
}

}  // namespace chai::cuda
