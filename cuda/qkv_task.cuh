// The projections of heads as a task (linear_task.cuh): which heads a step's rows need, and where their rows go. In: the tables of the
// step's segments. Out: queries by score slot, keys and values in their pages, rotated as `transformers` rotates halves.
//
// Heads of all three projections are numbered in one range: queries [0, H), keys [H, H + Hkv), values [H + Hkv, H + 2 Hkv).
#pragma once
#include "linear_task.cuh"

namespace chai::cuda {

/// Slot of a head in a segment's tables: -1 without one; `shared_slot` is added where several score slots use one query head.
constexpr int shared_slot = 1 << 14;

/// Which segments a launch is for, and in which layer.
struct HeadScope {
  Geometry geometry;
  int32_t layer = 0;
  bool warm_up = false;  // rows of warm-up segments, or of all others

  __device__ __host__ int all_heads() const { return geometry.heads + 2 * geometry.key_value_heads; }
  /// Head of entry [0, all_heads()) of a segment's tables, query, key and value slots in turn; -1 where unused.
  __device__ __forceinline__ int head_of_entry(const int32_t* own, int entry) const {
    const int heads = geometry.heads, key_value_heads = geometry.key_value_heads;
    if (entry < heads + key_value_heads && !warm_up && own[3] != layer) return -1;
    if (entry < heads) return entry < own[0] ? own[geometry.query_of_score() + entry] : -1;
    entry -= heads;
    if (entry < key_value_heads) return entry < own[1] ? heads + own[geometry.kept_keys() + entry] : -1;
    entry -= key_value_heads;
    return entry < own[2] ? heads + key_value_heads + own[geometry.kept_values() + entry] : -1;
  }
  /// visit(head, slot) for every projected head of a segment, shared by `count` threads of which the caller is number `index`.
  template <class Visit>
  __device__ __forceinline__ void each_head(const StepView& step, const SegmentRecord& segment, int index, int count, Visit visit) const {
    if ((segment.warm_up != 0) != warm_up) return;
    const SegmentTables tables = tables_of(step, geometry, segment, layer);
    const int32_t* own = tables.own;
    if (tables.scores_from == layer) {
      for (int slot = index; slot < own[0]; slot += count) visit(own[geometry.query_of_score() + slot], slot);
      for (int slot = index; slot < own[1]; slot += count) visit(geometry.heads + own[geometry.kept_keys() + slot], slot);
    }
    for (int slot = index; slot < own[2]; slot += count)
      visit(geometry.heads + geometry.key_value_heads + own[geometry.kept_values() + slot], slot);
  }
};

/// Lists the heads that have `needed` set, ascending, by the first warp. list: [1 + heads], the count first.
__device__ __forceinline__ void list_heads(const int32_t* needed, int heads, int32_t* list) {
  if (threadIdx.x >= 32) return;
  const int lane = int(threadIdx.x);
  int count = 0;
  for (int first = 0; first < heads; first += 32) {
    const bool mine = first + lane < heads && needed[first + lane] != 0;
    const uint32_t votes = __ballot_sync(dev::all_lanes, mine);
    if (mine) list[1 + count + __popc(votes & ((1u << lane) - 1))] = first + lane;
    count += __popc(votes);
  }
  if (lane == 0) list[0] = count;
}

template <class T>
struct QkvTask {
  static constexpr bool by_heads = true;
  HeadScope scope;
  WeightView<T> query, key, value;
  unsigned char* queries = nullptr;  // [rows][query_pitch] of the cache type
  int64_t query_pitch = 0;
  Element cache = Element::float16;
  bool rotary = false;
  int32_t half = 0;  // dimensions 0 .. half-1 pair with half .. 2 half - 1

  __device__ __host__ int heads() const { return scope.all_heads(); }
  __device__ __host__ int units_of_head() const { return (half + 7) / 8; }
  int all_units() const { return heads() * units_of_head(); }
  __device__ __forceinline__ int units(const int32_t* list) const { return list[0] * units_of_head(); }
  int all_pairs() const { return heads() * half; }

  __device__ __forceinline__ Pair pair_of_unit(const int32_t* list, int unit, int g) const {
    const int of_head = (half + 7) / 8, number = unit / of_head, i = (unit - number * of_head) * 8 + g;
    return {number < list[0] && i < half ? list[1 + number] : -1, i};
  }
  __device__ __forceinline__ Pair pair_of_index(const int32_t* list, int index) const {
    const int number = index / half;
    return {number < list[0] ? list[1 + number] : -1, index - number * half};
  }
  __device__ __forceinline__ const T* weight_row(Pair pair, bool second) const {
    const int d = scope.geometry.head_dim, i = pair.b + (second ? half : 0);
    if (pair.a < 0 || i >= d) return nullptr;
    int head = pair.a;
    return projection_of(head).row(int64_t(head) * d + i);
  }
  __device__ __forceinline__ Addends addends(const StepView& step, Pair pair, int row) const {
    Addends out;
    if (pair.a < 0) return out;
    int head = pair.a;
    const WeightView<T>& from = projection_of(head);
    const int d = scope.geometry.head_dim, n = head * d + pair.b;
    out.first = from.bias_of(n);
    if (pair.b + half < d) out.second = from.bias_of(n + half);
    if (!rotary || pair.a >= scope.geometry.heads + scope.geometry.key_value_heads) return out;
    out.cosine = step.cosines[int64_t(row) * half + pair.b];
    out.sine = step.sines[int64_t(row) * half + pair.b];
    return out;
  }

  /// Where a head's row goes: 0 nowhere, else an address whose lowest bit says that other score slots want it too.
  __device__ __forceinline__ uint64_t destination(const StepView& step, const SegmentRecord& segment, int head, int slot, int row) const {
    if (slot < 0) return 0;
    const Geometry& g = scope.geometry;
    const int number = slot & (shared_slot - 1);
    if (head < g.heads) return reinterpret_cast<uint64_t>(query_row(row, number)) | (slot & shared_slot ? 1 : 0);
    const int position = segment.position + row - segment.row;
    const unsigned char* page = head < g.heads + g.key_value_heads ? key_page(step, g, segment, scope.layer, number, position / page_rows)
                                                                   : value_page(step, segment, scope.layer, number, position / page_rows);
    return reinterpret_cast<uint64_t>(page + uint64_t(position % page_rows) * step.row_bytes);
  }
  __device__ __forceinline__ void store(const StepView& step, Pair pair, int row, float first, float second, const Addends& addends,
                                        uint64_t destination) const {
    if (pair.a < 0 || destination == 0) return;
    const float a = first + addends.first, b = second + addends.second;
    // Written out: which product a compiler fuses with the sum may differ from tile to tile, and a row's bits with it.
    const uint32_t both = pack2_as(cache, fmaf(a, addends.cosine, -(b * addends.sine)), fmaf(a, addends.sine, b * addends.cosine));
    void* to = reinterpret_cast<void*>(destination & ~uint64_t{1});
    put(to, pair.b, both);
    if (destination & 1) store_shared(step, pair, row, both, to);
  }

 private:
  /// `head` becomes the number inside its projection.
  __device__ __forceinline__ const WeightView<T>& projection_of(int& head) const {
    const int heads = scope.geometry.heads, key_value_heads = scope.geometry.key_value_heads;
    if (head < heads) return query;
    head -= heads;
    if (head < key_value_heads) return key;
    head -= key_value_heads;
    return value;
  }
  __device__ __forceinline__ unsigned char* query_row(int row, int slot) const {
    return queries + (row * query_pitch + int64_t(slot) * scope.geometry.head_dim) * 2;
  }
  __device__ __forceinline__ void put(void* to, int i, uint32_t both) const {
    static_cast<uint16_t*>(to)[i] = uint16_t(both);
    if (i + half < scope.geometry.head_dim) static_cast<uint16_t*>(to)[i + half] = uint16_t(both >> 16);
  }
  /// The other score slots of the same query head; maps that have such are rare.
  __device__ void store_shared(const StepView& step, Pair pair, int row, uint32_t both, const void* done) const {
    const Geometry& g = scope.geometry;
    const int32_t* own = tables_of(step, g, step.segment[step.row_segment[row]], scope.layer).own;
    for (int slot = 0; slot < own[0]; ++slot) {
      void* to = query_row(row, slot);
      if (own[g.query_of_score() + slot] == pair.a && to != done) put(to, pair.b, both);
    }
  }
};

}  // namespace chai::cuda
