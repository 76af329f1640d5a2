// Membership of one group of heads by one block: k-means or average linkage, representatives; the arithmetic of native/clustering.cpp, sum
// for sum, so that the result is the same to the last tie. In: feature vectors in global memory. Out: clusters and representatives in
// shared memory.
#pragma once
#include "step_view.cuh"

namespace chai::cuda {

constexpr int cluster_threads = 256;
constexpr int lloyd_rounds = 20;
constexpr double infinite_distance = __builtin_huge_val();

/// What is not finite counts as 0.
__device__ __forceinline__ float finite_or_zero(float x) { return fabsf(x) <= 3.402823466e38f ? x : 0.0f; }

/// A value and where it stands; of equal values the lower place counts.
struct Placed {
  double value;
  int at;
};
__device__ __forceinline__ Placed other_lane(const Placed& mine, int step) {
  return {__shfl_xor_sync(dev::all_lanes, mine.value, step), __shfl_xor_sync(dev::all_lanes, mine.at, step)};
}
/// The greatest over a warp; `at` negative: none.
__device__ __forceinline__ Placed greatest_of_warp(Placed best) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const Placed other = other_lane(best, step);
    if (other.at >= 0 && (best.at < 0 || other.value > best.value || (other.value == best.value && other.at < best.at))) best = other;
  }
  return best;
}
__device__ __forceinline__ Placed least_of_warp(Placed best) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const Placed other = other_lane(best, step);
    if (other.at >= 0 && (best.at < 0 || other.value < best.value || (other.value == best.value && other.at < best.at))) best = other;
  }
  return best;
}

/// Elements of a feature vector that lie in shared memory at once.
__host__ __device__ constexpr int feature_tile(int heads) {
  return heads <= 160 ? 32 : 65536 / (12 * heads) > 2 ? 65536 / (12 * heads) - 1 : 1;
}
/// Whether all pairs of heads fit into shared memory too.
__host__ __device__ constexpr bool pairs_in_shared(int heads) { return heads <= 64; }

/// Shared memory of the block, and the group at work.
struct GroupWork {
  // [heads] each; labels of clusters are local to the group until the end
  double* nearest;                   // distance to the nearest centre
  int *cluster_of, *next, *members;  // members: [clusters]
  int* chosen;                       // [clusters] heads
  int* representatives;              // [all clusters] heads, of all groups
  int *gain, *allowed, *covered;     // [key heads], [key heads], [clusters]
  int* flag;                         // [4]
  float* points;                     // [heads][tile + 1]
  double* centres;                   // [clusters][tile + 1]
  double* pair;                      // [heads][heads], shared or global: pairs of heads, later heads x clusters
  Placed* warp_best;                 // [warps]
  const float* features;             // of the group's first head
  int first, count, clusters;        // heads [first, first + count)
  int length, tile, loaded;          // loaded: which tile lies in `points`
};

__host__ __device__ inline size_t membership_shared_bytes(int heads) {
  const size_t h = size_t(heads), row = size_t(feature_tile(heads)) + 1;
  return h * 8 + h * row * 8 + (pairs_in_shared(heads) ? h * h * 8 : 0) + (cluster_threads / 32) * sizeof(Placed) + h * row * 4 +
         8 * h * 4 + 16;
}

__device__ inline GroupWork place_work(unsigned char* shared, int heads, double* scratch) {
  GroupWork w{};
  const int row = feature_tile(heads) + 1;
  w.tile = row - 1;
  auto* doubles = reinterpret_cast<double*>(shared);
  w.nearest = doubles, doubles += heads;
  w.centres = doubles, doubles += int64_t(heads) * row;
  w.pair = scratch;
  if (pairs_in_shared(heads)) w.pair = doubles, doubles += heads * heads;
  w.warp_best = reinterpret_cast<Placed*>(doubles);
  w.points = reinterpret_cast<float*>(w.warp_best + cluster_threads / 32);
  auto* ints = reinterpret_cast<int*>(w.points + int64_t(heads) * row);
  int** const lists[] = {&w.cluster_of, &w.next, &w.members, &w.chosen, &w.representatives, &w.gain, &w.allowed, &w.covered};
  for (int** list : lists) *list = ints, ints += heads;
  w.flag = ints;
  return w;
}

/// Tile t of all feature vectors; returns its width. Ends with a barrier.
__device__ inline int load_tile(GroupWork& w, int t) {
  const int from = t * w.tile, width = min(w.tile, w.length - from);
  if (w.loaded != t) {
    __syncthreads();
    for (int i = threadIdx.x; i < w.count * width; i += blockDim.x)
      w.points[i / width * (w.tile + 1) + i % width] = finite_or_zero(w.features[int64_t(i / width) * w.length + from + i % width]);
    w.loaded = t;
  }
  __syncthreads();
  return width;
}

/// pair[a][b] = squared distance of heads a and b, or their dot product. Additions in the order of the vectors' elements.
__device__ inline void all_pairs(GroupWork& w, bool dot) {
  const int n = w.count, row = w.tile + 1, tiles = (w.length + w.tile - 1) / w.tile;
  for (int t = 0; t < tiles; ++t) {
    const int width = load_tile(w, t);
    for (int i = threadIdx.x; i < n * n; i += blockDim.x) {
      const int a = i / n, b = i % n;
      if (a > b) continue;
      double sum = t == 0 ? 0.0 : w.pair[i];
      for (int e = 0; e < width; ++e) {
        const double x = w.points[a * row + e], y = w.points[b * row + e], between = __dsub_rn(x, y);
        sum = __dadd_rn(sum, dot ? __dmul_rn(x, y) : __dmul_rn(between, between));
      }
      w.pair[i] = sum;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < n * n; i += blockDim.x)
    if (i / n > i % n) w.pair[i] = w.pair[i % n * n + i / n];
  __syncthreads();
}

/// pair[head][cluster] = squared distance to the mean of the cluster's members.
__device__ inline void distances_to_centres(GroupWork& w) {
  const int n = w.count, k = w.clusters, row = w.tile + 1, tiles = (w.length + w.tile - 1) / w.tile;
  for (int t = 0; t < tiles; ++t) {
    const int width = load_tile(w, t);
    for (int i = threadIdx.x; i < k * width; i += blockDim.x) {
      const int c = i / width, e = i % width;
      double sum = 0;
      for (int p = 0; p < n; ++p)
        if (w.cluster_of[p] == c) sum = __dadd_rn(sum, double(w.points[p * row + e]));
      w.centres[c * row + e] = sum / double(max(1, w.members[c]));
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n * k; i += blockDim.x) {
      const float* point = w.points + i / k * row;
      const double* centre = w.centres + i % k * row;
      double sum = t == 0 ? 0.0 : w.pair[i];
      for (int e = 0; e < width; ++e) {
        const double between = __dsub_rn(double(point[e]), centre[e]);
        sum = __dadd_rn(sum, __dmul_rn(between, between));
      }
      w.pair[i] = sum;
    }
    __syncthreads();
  }
}

/// Farthest-first: head 0, then again and again the head farthest from its nearest chosen one. One warp.
__device__ inline void choose_first_centres(GroupWork& w) {
  const int lane = threadIdx.x & 31;
  for (int p = lane; p < w.count; p += 32) w.nearest[p] = infinite_distance;
  int next = 0;
  for (int c = 0; c < w.clusters; ++c) {
    if (lane == 0) w.chosen[c] = next;
    Placed farthest{0, -1};
    for (int p = lane; p < w.count; p += 32) {
      const double d = w.pair[p * w.count + next], nearest = d < w.nearest[p] ? d : w.nearest[p];
      w.nearest[p] = nearest;
      if (farthest.at < 0 || nearest > farthest.value) farthest = {nearest, p};
    }
    next = greatest_of_warp(farthest).at;
  }
  __syncwarp();
}

/// Counts the members of `next`. One warp.
__device__ inline void count_members(GroupWork& w, const int* cluster_of) {
  const int lane = threadIdx.x & 31;
  for (int c = lane; c < w.clusters; c += 32) w.members[c] = 0;
  __syncwarp();
  for (int p = lane; p < w.count; p += 32) atomicAdd(&w.members[cluster_of[p]], 1);
  __syncwarp();
}

/// An empty cluster takes the head farthest from its own centre, never the only member of another cluster. One warp.
__device__ inline void fill_empty(GroupWork& w) {
  const int lane = threadIdx.x & 31;
  for (int c = 0; c < w.clusters; ++c) {
    if (w.members[c] > 0) continue;
    Placed farthest{0, -1};
    for (int p = lane; p < w.count; p += 32)
      if (w.members[w.next[p]] > 1 && (farthest.at < 0 || w.nearest[p] > farthest.value)) farthest = {w.nearest[p], p};
    const int taken = greatest_of_warp(farthest).at;
    __syncwarp();
    if (lane == 0) {
      --w.members[w.next[taken]];
      w.next[taken] = c;
      w.nearest[taken] = 0;
      ++w.members[c];
    }
    __syncwarp();
  }
}

/// Each head's nearest centre, empty clusters filled. pair[head * stride + column_of(cluster)] are the distances. flag[0]: something moved.
__device__ inline void assign(GroupWork& w, bool first_round) {
  for (int p = threadIdx.x; p < w.count; p += blockDim.x) {
    double least = infinite_distance;
    int at = 0;
    for (int c = 0; c < w.clusters; ++c) {
      const double d = first_round ? w.pair[p * w.count + w.chosen[c]] : w.pair[p * w.clusters + c];
      if (d < least) least = d, at = c;
    }
    w.nearest[p] = least, w.next[p] = at;
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    count_members(w, w.next);
    fill_empty(w);
    bool moved = first_round;
    for (int p = threadIdx.x; p < w.count; p += 32) {
      moved |= w.cluster_of[p] != w.next[p];
      w.cluster_of[p] = w.next[p];
    }
    const bool any = __any_sync(dev::all_lanes, moved);
    if (threadIdx.x == 0) w.flag[0] = any;
  }
  __syncthreads();
}

__device__ inline void group_by_kmeans(GroupWork& w) {
  all_pairs(w, false);
  if (threadIdx.x < 32) choose_first_centres(w);
  __syncthreads();
  for (int round = 0; round < lloyd_rounds; ++round) {
    if (round > 0) distances_to_centres(w);
    assign(w, round == 0);
    if (!w.flag[0]) break;
    __syncthreads();
  }
  __syncthreads();
}

/// Dot products become cosine distances.
__device__ inline void cosine_distances(GroupWork& w) {
  const int n = w.count;
  for (int p = threadIdx.x; p < n; p += blockDim.x) w.nearest[p] = w.pair[p * n + p];
  __syncthreads();
  for (int i = threadIdx.x; i < n * n; i += blockDim.x) {
    const double aa = w.nearest[i / n], bb = w.nearest[i % n];
    w.pair[i] = aa == 0 || bb == 0 ? (aa == bb ? 0.0 : 1.0) : 1 - w.pair[i] / sqrt(aa * bb);
  }
  __syncthreads();
}

/// The two clusters of least mean pairwise distance, as a * count + b; clusters go by their lowest member.
__device__ inline int nearest_pair(GroupWork& w) {
  const int n = w.count, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  Placed least{0, -1};
  for (int i = threadIdx.x; i < n * n; i += blockDim.x) {
    const int a = i / n, b = i % n;
    if (a >= b || w.members[a] == 0 || w.members[b] == 0) continue;
    const double mean = w.pair[i] / (double(w.members[a]) * w.members[b]);
    if (least.at < 0 || mean < least.value) least = {mean, i};
  }
  least = least_of_warp(least);
  if ((threadIdx.x & 31) == 0) w.warp_best[warp] = least;
  __syncthreads();
  least = w.warp_best[0];
  for (int other = 1; other < warps; ++other) {
    const Placed best = w.warp_best[other];
    if (best.at >= 0 && (least.at < 0 || best.value < least.value || (best.value == least.value && best.at < least.at))) least = best;
  }
  return least.at;
}

__device__ inline void group_by_average_linkage(GroupWork& w) {
  const int n = w.count;
  all_pairs(w, true);
  cosine_distances(w);
  for (int p = threadIdx.x; p < n; p += blockDim.x) w.cluster_of[p] = p, w.members[p] = 1;
  __syncthreads();
  for (int left = n; left > w.clusters; --left) {
    const int merged = nearest_pair(w), first = merged / n, second = merged % n;
    __syncthreads();
    for (int p = threadIdx.x; p < n; p += blockDim.x) {
      if (w.cluster_of[p] == second) w.cluster_of[p] = first;
      if (p == first || p == second) continue;  // nobody reads a merged cluster's distances again
      const double sum = __dadd_rn(w.pair[first * n + p], w.pair[second * n + p]);
      w.pair[first * n + p] = w.pair[p * n + first] = sum;
    }
    if (threadIdx.x == 0) w.members[first] += w.members[second], w.members[second] = 0;
    __syncthreads();
  }
}

/// Numbers clusters by their lowest member, then counts members.
__device__ inline void renumber(GroupWork& w) {
  for (int p = threadIdx.x; p < w.count; p += blockDim.x) w.next[p] = -1;
  __syncthreads();
  if (threadIdx.x == 0) {
    int seen = 0;
    for (int p = 0; p < w.count; ++p) {
      const int old = w.cluster_of[p];
      if (w.next[old] < 0) w.next[old] = seen++;
      w.cluster_of[p] = w.next[old];
    }
  }
  __syncthreads();
  if (threadIdx.x < 32) count_members(w, w.cluster_of);
  __syncthreads();
}

/// The head nearest the cluster's centre; distances within 1e-5 of the least are equal, so that the lowest head wins. members_only: among
/// its members; limited: among heads whose key head is allowed. Negative: none.
__device__ inline int nearest_head(const GroupWork& w, int cluster, bool members_only, bool limited, int heads_per_key) {
  const auto may = [&](int h) {
    return (!members_only || w.cluster_of[h] == cluster) && (!limited || w.allowed[(w.first + h) / heads_per_key] != 0);
  };
  double least = infinite_distance;
  for (int h = 0; h < w.count; ++h)
    if (may(h) && w.pair[h * w.clusters + cluster] < least) least = w.pair[h * w.clusters + cluster];
  for (int h = 0; h < w.count; ++h)
    if (may(h) && w.pair[h * w.clusters + cluster] <= least * (1 + 1e-5)) return h;
  return -1;
}

/// Clusters that key head `key` would newly cover, or -1 when it may not be chosen.
__device__ inline int gain_of_key(const GroupWork& w, int key, int heads_per_key) {
  const int from = max(w.first, key * heads_per_key), to = min(w.first + w.count, (key + 1) * heads_per_key);
  if (w.allowed[key] || from >= to) return -1;
  int gain = 0;
  for (int h = from; h < to; ++h) {
    const int cluster = w.cluster_of[h - w.first];
    bool counts = w.covered[cluster] == 0;
    for (int other = from; counts && other < h; ++other) counts = w.cluster_of[other - w.first] != cluster;
    gain += counts;
  }
  return gain;
}

/// Key heads that cover most clusters, greedily.
__device__ inline void choose_key_heads(GroupWork& w, int key_heads, int heads_per_key, int limit) {
  for (int i = threadIdx.x; i < key_heads; i += blockDim.x) w.allowed[i] = 0;
  for (int i = threadIdx.x; i < w.clusters; i += blockDim.x) w.covered[i] = 0;
  for (int round = 0; round < limit; ++round) {
    __syncthreads();
    for (int key = threadIdx.x; key < key_heads; key += blockDim.x) w.gain[key] = gain_of_key(w, key, heads_per_key);
    __syncthreads();
    if (threadIdx.x == 0) {
      int best = -1, best_gain = -1;
      for (int key = 0; key < key_heads; ++key)
        if (w.gain[key] > best_gain) best = key, best_gain = w.gain[key];
      if (best >= 0) w.allowed[best] = 1;
      for (int h = 0; best >= 0 && h < w.count; ++h)
        if ((w.first + h) / heads_per_key == best) w.covered[w.cluster_of[h]] = 1;
    }
  }
  __syncthreads();
}

/// Counts into flag[1] the key heads that the chosen heads use.
__device__ inline void count_used_keys(GroupWork& w, int key_heads, int heads_per_key) {
  for (int i = threadIdx.x; i < key_heads; i += blockDim.x) w.gain[i] = 0;
  if (threadIdx.x == 0) w.flag[1] = 0;
  __syncthreads();
  for (int c = threadIdx.x; c < w.clusters; c += blockDim.x)
    if (atomicExch(&w.gain[(w.first + w.chosen[c]) / heads_per_key], 1) == 0) atomicAdd(&w.flag[1], 1);
  __syncthreads();
}

/// chosen[cluster] = the member that stands for it; `limit`: most distinct key heads, 0 = any.
__device__ inline void choose_representatives(GroupWork& w, int key_heads, int heads_per_key, int limit) {
  distances_to_centres(w);
  for (int c = threadIdx.x; c < w.clusters; c += blockDim.x) w.chosen[c] = nearest_head(w, c, true, false, heads_per_key);
  __syncthreads();
  if (limit == 0) return;
  count_used_keys(w, key_heads, heads_per_key);
  if (w.flag[1] <= limit) return;
  choose_key_heads(w, key_heads, heads_per_key, limit);
  for (int c = threadIdx.x; c < w.clusters; c += blockDim.x) {
    const int inside = nearest_head(w, c, true, true, heads_per_key);
    w.chosen[c] = inside >= 0 ? inside : nearest_head(w, c, false, true, heads_per_key);
  }
  __syncthreads();
}

/// Clusters of heads [first, first + count): cluster_of and chosen, local to the group.
__device__ inline void find_group(GroupWork& w, const RuleRecord& rule, int key_heads, int heads_per_key) {
  __syncthreads();
  if (rule.method == 0)
    group_by_kmeans(w);
  else
    group_by_average_linkage(w);
  renumber(w);
  choose_representatives(w, key_heads, heads_per_key, rule.key_heads / rule.head_groups);
}

}  // namespace chai::cuda
