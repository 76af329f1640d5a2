// One step as kernels see it: plain records in device memory, so that a captured graph can be replayed with other contents.
// In: native/backend.h's Step, flattened by the backend. Out: inline look-ups of tables and pages.
#pragma once
#include <cstdint>

#include "dev.cuh"
#include "element.h"

namespace chai::cuda {

constexpr int page_rows = 64;  // tokens in a head page; equals chai::page_rows

struct SegmentRecord {
  int32_t row, count;  // rows [row, row + count) of the step
  int32_t position;    // of the first row in its sequence
  int32_t warm_up;     // 1: tokens < S+W, identity heads, keys in warm pages
  int32_t sequence;
};

/// How one layer of one plan is clustered (method chai only).
struct RuleRecord {
  int32_t method;  // 0 k-means, 1 average linkage on cosine distances
  int32_t clusters, head_groups, key_heads;
};

struct SequenceRecord {
  int32_t* tables;           // [layers][table_size]
  int32_t* block_pages;      // [blocks][table_rows] page ids
  int32_t* warm_pages;       // [layers][Hkv][warm_blocks] page ids
  float* features;           // [layers][H][feature_length]
  const int32_t* key_row;    // [layers] first page-table row of the layer's K slots
  const int32_t* value_row;  // [layers]
  const RuleRecord* rules;   // [layers], null unless the method is chai
  int32_t table_rows, warm_blocks;
  int32_t warmup_start, warmup_tokens;  // S, W; both 0 without warm-up
  int32_t feature_length;
};

/// The whole step. Lies in device memory; kernels get a pointer to it, never counts by value, because a graph replays them.
struct StepView {
  int32_t rows, segments, sequences, logit_rows;
  const int32_t* tokens;       // [rows]
  const int32_t* positions;    // [rows]
  const int32_t* row_segment;  // [rows] segment of each row
  const int32_t* logit_row;    // [logit_rows] step rows whose logits are wanted
  const SegmentRecord* segment;
  const SequenceRecord* sequence;
  const int32_t* identity;  // [table_size] the head table without sharing (warm-up rows)
  const float* cosines;     // [rows][head_dim / 2], null without rotary embedding
  const float* sines;
  unsigned char* pool;  // page i at pool + i * page_bytes
  uint64_t page_bytes;
  uint32_t row_bytes;  // of one head row in a page
};

/// Fixed for the life of a model; passed to kernels by value.
struct Geometry {
  int32_t layers, heads, key_value_heads, head_dim, hidden;
  int32_t sliding_window;  // 0: all keys
  float attention_scale;

  // Offsets in a flat head table; the same as chai::HeadTable (native/head_map.h).
  __device__ __host__ int score_of_query() const { return 4; }
  __device__ __host__ int query_of_score() const { return 4 + heads; }
  __device__ __host__ int key_of_score() const { return 4 + 2 * heads; }
  __device__ __host__ int value_of_query() const { return 4 + 3 * heads; }
  __device__ __host__ int kept_keys() const { return 4 + 4 * heads; }
  __device__ __host__ int kept_values() const { return 4 + 4 * heads + key_value_heads; }
  __device__ __host__ int table_size() const { return 4 + 4 * heads + 2 * key_value_heads; }
};

/// Tables that one segment uses in one layer. [0] scores, [1] kept keys, [2] kept values, [3] scores_from; then the arrays of Geometry.
struct SegmentTables {
  const int32_t* own;
  const int32_t* source;  // of the layer whose scores are used
  int32_t scores_from;
};

__device__ __forceinline__ SegmentTables tables_of(const StepView& step, const Geometry& g, const SegmentRecord& segment, int layer) {
  if (segment.warm_up) return {step.identity, step.identity, layer};
  const int32_t* tables = step.sequence[segment.sequence].tables;
  const int32_t* own = tables + int64_t(layer) * g.table_size();
  return {own, tables + int64_t(own[3]) * g.table_size(), own[3]};
}

/// Page of K slot `slot` of `layer`, block = position / page_rows. In warm-up the slot is the key head.
__device__ __forceinline__ unsigned char* key_page(const StepView& step, const Geometry& g, const SegmentRecord& segment, int layer,
                                                   int slot, int block) {
  const SequenceRecord& s = step.sequence[segment.sequence];
  const int32_t page = segment.warm_up ? s.warm_pages[(int64_t(layer) * g.key_value_heads + slot) * s.warm_blocks + block]
                                       : s.block_pages[int64_t(block) * s.table_rows + s.key_row[layer] + slot];
  return step.pool + uint64_t(page) * step.page_bytes;
}
__device__ __forceinline__ unsigned char* value_page(const StepView& step, const SegmentRecord& segment, int layer, int slot, int block) {
  const SequenceRecord& s = step.sequence[segment.sequence];
  return step.pool + uint64_t(s.block_pages[int64_t(block) * s.table_rows + s.value_row[layer] + slot]) * step.page_bytes;
}

/// Two numbers, or one, in a 16-bit type that the kernel is not built for.
__device__ __forceinline__ uint32_t pack2_as(Element type, float low, float high) {
  return type == Element::bfloat16 ? dev::pack2<__nv_bfloat16>(low, high) : dev::pack2<__half>(low, high);
}
__device__ __forceinline__ uint16_t narrow_as(Element type, float x) { return uint16_t(pack2_as(type, x, 0)); }

}  // namespace chai::cuda
