// Online clustering inside the layer; see clusterer.h. Two kernels a layer: feature rows of the warm-up tokens, then membership, table and
// K-cache compaction of the sequences whose warm-up ends in this step.
#include <algorithm>

#include "clusterer.h"
#include "clusterer_membership.cuh"
#include "launch.cuh"

namespace chai::cuda {
namespace {

constexpr int feature_warps = 8;
constexpr int most_warm = 256;  // S + W at most
constexpr int most_head_dim = 256;
constexpr int feature_blocks = 4;  // that share one head's tokens

/// The segment of this sequence that is in warm-up, or null. All threads of the block; ends with a barrier.
__device__ const SegmentRecord* warm_segment(const StepView& step, int sequence, int* found) {
  if (threadIdx.x == 0) *found = -1;
  __syncthreads();
  for (int i = threadIdx.x; i < step.segments; i += blockDim.x)
    if (step.segment[i].warm_up && step.segment[i].sequence == sequence) *found = i;
  __syncthreads();
  return *found < 0 ? nullptr : step.segment + *found;
}

/// Part of a dot product: elements that lane group member `part` of 4 owns.
template <class Cache>
__device__ float dot_part(const float* query, const Cache* key, int head_dim, int part) {
  float sum = 0;
  if (head_dim % 8 == 0) {
    for (int at = part * 8; at < head_dim; at += 32) {
      float eight[8];
      dev::load8(eight, key + at);
#pragma unroll
      for (int e = 0; e < 8; ++e) sum = fmaf(query[at + e], eight[e], sum);
    }
  } else {
    for (int at = part; at < head_dim; at += 4) sum = fmaf(query[at], dev::to_float(key[at]), sum);
  }
  return sum;
}

/// scores[0 .. last] of one query over the keys of a warm page list, by one warp: eight keys at a time, four lanes a key.
template <class Cache>
__device__ void warm_scores(const StepView& step, const Geometry& g, const SegmentRecord& segment, int layer, int key_head, int first,
                            int last, const float* query, float* scores) {
  const int lane = threadIdx.x & 31;
  for (int j = first + lane / 4; j - lane / 4 <= last; j += 8) {
    float sum = 0;
    if (j <= last) {
      const unsigned char* page = key_page(step, g, segment, layer, key_head, j / page_rows);
      sum = dot_part(query, reinterpret_cast<const Cache*>(page + uint64_t(j % page_rows) * step.row_bytes), g.head_dim, lane & 3);
    }
    sum += __shfl_xor_sync(dev::all_lanes, sum, 1);
    sum += __shfl_xor_sync(dev::all_lanes, sum, 2);
    if (j <= last && (lane & 3) == 0) scores[j] = sum * g.attention_scale;
  }
  __syncwarp();
}

/// row[0 .. last] = softmax of scores[first .. last], zeros before. One warp; the order of additions depends on `first` and `last` alone.
__device__ void softmax_row(const float* scores, int first, int last, float* row) {
  const int lane = threadIdx.x & 31;
  float greatest = -3.402823466e38f, sum = 0;
  for (int j = first + lane; j <= last; j += 32) greatest = fmaxf(greatest, scores[j]);
  greatest = dev::max_over_lanes(greatest);
  for (int j = first + lane; j <= last; j += 32) sum += expf(scores[j] - greatest);
  sum = dev::sum_over_lanes(sum);
  for (int j = lane; j < first; j += 32) row[j] = 0;
  for (int j = first + lane; j <= last; j += 32) row[j] = expf(scores[j] - greatest) / sum;
}

/// Block (head, sequence, part): feature rows of one head, one warp a token.
template <class Cache>
__global__ void __launch_bounds__(feature_warps * 32, 4)
    feature_kernel(const StepView* view, Geometry g, int layer, const Cache* queries, int pitch) {
  __shared__ int found;
  __shared__ float query[feature_warps][most_head_dim];
  __shared__ float scores[feature_warps][most_warm];
  const StepView& step = *view;
  const int head = blockIdx.x, sequence = blockIdx.y, warp = threadIdx.x / 32, lane = threadIdx.x & 31;
  if (sequence >= step.sequences) return;
  const SegmentRecord* segment = warm_segment(step, sequence, &found);
  if (!segment) return;
  const SequenceRecord& s = step.sequence[sequence];
  const int start = s.warmup_start, from = max(start, segment->position);
  const int to = min(start + s.warmup_tokens, segment->position + segment->count);
  float* features = s.features + (int64_t(layer) * g.heads + head) * s.feature_length;
  for (int i = from + int(blockIdx.z) * feature_warps + warp; i < to; i += feature_warps * int(gridDim.z)) {
    const Cache* from_row = queries + int64_t(segment->row + i - segment->position) * pitch + head * g.head_dim;
    __syncwarp();
    for (int e = lane; e < g.head_dim; e += 32) query[warp][e] = dev::to_float(from_row[e]);
    __syncwarp();
    const int first = g.sliding_window > 0 ? max(0, i - g.sliding_window + 1) : 0;
    warm_scores<Cache>(step, g, *segment, layer, head / (g.heads / g.key_value_heads), first, i, query[warp], scores[warp]);
    const int before = i - start;  // rows before this one; together they have before * start + before (before + 1) / 2 entries
    softmax_row(scores[warp], first, i, features + before * start + before * (before + 1) / 2);
  }
}

/// The layer's table without the part that depends on membership, -1 where nothing stands.
__device__ void fill_table(const Geometry& g, int layer, int clusters, int32_t* table) {
  const int heads_per_key = g.heads / g.key_value_heads;
  for (int i = threadIdx.x; i < g.table_size(); i += blockDim.x) {
    int value = -1;
    if (i == 0) value = clusters;
    if (i == 2) value = g.key_value_heads;
    if (i == 3) value = layer;
    if (i >= g.value_of_query() && i < g.kept_keys()) value = (i - g.value_of_query()) / heads_per_key;
    if (i >= g.kept_values()) value = i - g.kept_values();
    table[i] = value;
  }
  __syncthreads();
}

/// K slots in order of first use by the representatives. All threads; returns how many.
__device__ int number_keys(const Geometry& g, GroupWork& w, int clusters, int32_t* table) {
  int *slot_of_key = w.gain, *kept = w.allowed;
  for (int i = threadIdx.x; i < g.key_value_heads; i += blockDim.x) slot_of_key[i] = -1;
  __syncthreads();
  if (threadIdx.x == 0) {
    int count = 0;
    for (int c = 0; c < clusters; ++c) {
      const int key = w.representatives[c] / (g.heads / g.key_value_heads);
      if (slot_of_key[key] < 0) kept[count] = key, slot_of_key[key] = count++;
    }
    table[1] = w.flag[2] = count;
  }
  __syncthreads();
  for (int c = threadIdx.x; c < clusters; c += blockDim.x) {
    table[g.query_of_score() + c] = w.representatives[c];
    table[g.key_of_score() + c] = slot_of_key[w.representatives[c] / (g.heads / g.key_value_heads)];
  }
  for (int i = threadIdx.x; i < w.flag[2]; i += blockDim.x) table[g.kept_keys() + i] = kept[i];
  return w.flag[2];
}

/// The kept heads' warm pages become the first pages of their K slots.
__device__ void hand_over_pages(const SequenceRecord& s, const Geometry& g, int layer, const int* kept, int count) {
  for (int i = threadIdx.x; i < count * s.warm_blocks; i += blockDim.x) {
    const int slot = i / s.warm_blocks, block = i % s.warm_blocks;
    s.block_pages[int64_t(block) * s.table_rows + s.key_row[layer] + slot] =
        s.warm_pages[(int64_t(layer) * g.key_value_heads + kept[slot]) * s.warm_blocks + block];
  }
}

/// Block = sequence. Where its warm-up ends in this step: membership, the layer's table, and the representatives' warm pages become K
/// pages.
__global__ void __launch_bounds__(cluster_threads, 1) membership_kernel(const StepView* view, Geometry g, int layer, double* scratch) {
  DEV_DYN_SMEM(unsigned char, shared);
  __shared__ int found;
  const StepView& step = *view;
  const int sequence = blockIdx.x;
  if (sequence >= step.sequences) return;
  const SegmentRecord* segment = warm_segment(step, sequence, &found);
  if (!segment) return;
  const SequenceRecord& s = step.sequence[sequence];
  if (segment->position + segment->count != s.warmup_start + s.warmup_tokens) return;
  const RuleRecord rule = s.rules[layer];
  int32_t* table = s.tables + int64_t(layer) * g.table_size();
  fill_table(g, layer, rule.clusters, table);
  GroupWork w = place_work(shared, g.heads, scratch ? scratch + int64_t(sequence) * g.heads * g.heads : nullptr);
  w.count = g.heads / rule.head_groups, w.clusters = rule.clusters / rule.head_groups, w.length = s.feature_length;
  for (int group = 0; group < rule.head_groups; ++group) {
    w.first = group * w.count, w.loaded = -1;
    w.features = s.features + (int64_t(layer) * g.heads + w.first) * s.feature_length;
    find_group(w, rule, g.key_value_heads, g.heads / g.key_value_heads);
    const int offset = group * w.clusters;
    for (int p = threadIdx.x; p < w.count; p += blockDim.x) table[g.score_of_query() + w.first + p] = offset + w.cluster_of[p];
    for (int c = threadIdx.x; c < w.clusters; c += blockDim.x) w.representatives[offset + c] = w.first + w.chosen[c];
  }
  __syncthreads();
  const int kept = number_keys(g, w, rule.clusters, table);
  hand_over_pages(s, g, layer, w.allowed, kept);
}

}  // namespace

struct Clusterer::State {
  DeviceArray<double> scratch;  // [sequences][H][H], when that is too much for shared memory
};

Clusterer::Clusterer(const Config& config, int sequences, const DeviceFacts&) : state_(std::make_unique<State>()) {
  const size_t heads = size_t(config.heads);
  if (!pairs_in_shared(config.heads)) state_->scratch = DeviceArray<double>(size_t(sequences) * heads * heads, "scratch of clustering");
}
Clusterer::~Clusterer() = default;

void Clusterer::cluster(const StepLaunch& step, int layer, const void* queries) {
  if (!step.warm_up || step.sequences == 0) return;
  const Geometry& g = step.geometry;
  const Launch features{dim3(unsigned(g.heads), unsigned(step.sequences), feature_blocks), dim3(feature_warps * 32), 0, step.stream};
  with_type(step.cache, [&](auto cache) {
    using Cache = decltype(cache);
    launch(feature_kernel<Cache>, features, step.view, g, layer, static_cast<const Cache*>(queries), pitch_of(g.heads * g.head_dim));
  });
  launch(membership_kernel, {dim3(unsigned(step.sequences)), dim3(cluster_threads), membership_shared_bytes(g.heads), step.stream},
         step.view, g, layer, state_->scratch.get());
}

size_t Clusterer::bytes() const { return state_->scratch.count() * sizeof(double); }

}  // namespace chai::cuda
