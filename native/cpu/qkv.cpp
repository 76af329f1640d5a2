// Queries, keys and values of a step: norm, the projections that the head tables name, bias, rotation, cache rows; see cpu_backend.h.
// Rows of sequences with different tables share one pass over the weights: each head has the list of rows that need it.
#include "cpu_backend.h"

namespace chai::cpu {
namespace {

enum Kind { query_kind, key_kind, value_kind };

bool in_phase(const Segment& segment, Phase phase) { return segment.warm_up == (phase == Phase::warm_up); }

}  // namespace

int32_t* CpuBackend::table_of(const SequenceView& sequence, int layer) const {
  return sequence.tables + int64_t(layer) * HeadTable(config_).size();
}

SegmentHeads CpuBackend::heads_of(const Step& step, const Segment& segment, int layer) const {
  if (segment.warm_up) return {identity_.data(), identity_.data(), layer};
  const SequenceView& sequence = step.sequences[segment.sequence];
  const int32_t* own = table_of(sequence, layer);
  return {own, table_of(sequence, own[3]), own[3]};
}

HeadPages CpuBackend::key_pages(const Step& step, const Segment& segment, int layer, int slot) const {
  const SequenceView& sequence = step.sequences[segment.sequence];
  const PlanGeometry& geometry = *sequence.geometry;
  if (segment.warm_up) return {sequence.warm_pages + (int64_t(layer) * config_.key_value_heads + slot) * geometry.warm_blocks, 1};
  return {sequence.block_pages + geometry.key_row[layer] + slot, geometry.table_rows};
}

HeadPages CpuBackend::value_pages(const Step& step, const Segment& segment, int layer, int slot) const {
  const SequenceView& sequence = step.sequences[segment.sequence];
  return {sequence.block_pages + sequence.geometry->value_row[layer] + slot, sequence.geometry->table_rows};
}

/// Calls visit(kind, head, slot, segment) for every projected head of every segment of the phase.
template <class Visit>
void CpuBackend::each_head(const Step& step, Phase phase, int layer, Visit visit) const {
  const HeadTable table(config_);
  for (const Segment& segment : step.segments) {
    if (!in_phase(segment, phase)) continue;
    const SegmentHeads heads = heads_of(step, segment, layer);
    if (heads.scores_from == layer) {
      for (int slot = 0; slot < heads.own[0]; ++slot) visit(query_kind, heads.own[table.query_of_score() + slot], slot, segment);
      for (int slot = 0; slot < heads.own[1]; ++slot) visit(key_kind, heads.own[table.kept_keys() + slot], slot, segment);
    }
    for (int slot = 0; slot < heads.own[2]; ++slot) visit(value_kind, heads.own[table.kept_values() + slot], slot, segment);
  }
}

void CpuBackend::list_head_rows(const Step& step, Phase phase, int layer, const Rows& queries) {
  const int first_of_kind[] = {0, config_.heads, config_.heads + config_.key_value_heads};
  const Rows* to[] = {&queries, &keys_, &values_};
  for (int kind = 0; kind < 3; ++kind)
    for (int head = 0; head < (kind == query_kind ? config_.heads : config_.key_value_heads); ++head)
      head_rows_[first_of_kind[kind] + head] = {kind, head, 0, 0};
  each_head(step, phase, layer,
            [&](int kind, int head, int, const Segment& segment) { head_rows_[first_of_kind[kind] + head].count += segment.count; });
  int first = 0;
  for (HeadRows& rows : head_rows_) {
    rows.first = first;
    first += rows.count;
    rows.count = 0;
  }
  const Rows& from = normed_;
  each_head(step, phase, layer, [&](int kind, int head, int slot, const Segment& segment) {
    HeadRows& rows = head_rows_[first_of_kind[kind] + head];
    for (int row = segment.row; row < segment.row + segment.count; ++row, ++rows.count) {
      from_[rows.first + rows.count] = row_of(from, row);
      to_[rows.first + rows.count] = row_of(*to[kind], row) + slot * config_.head_dim;
    }
  });
}

void CpuBackend::project_heads(const LayerWeights& weights, int rows) {
  const Linear* linears[] = {&weights.query, &weights.key, &weights.value};
  const int d = config_.head_dim, heads = int(head_rows_.size());
  const int64_t cost = int64_t(rows) * heads * d * config_.hidden;
  // Few heads on many threads: a head is split so that every thread has some work.
  const int parts = std::clamp(4 * pool_.threads() / heads, 1, std::max(1, d / lanes));
  const int width = ((d + parts - 1) / parts + lanes - 1) / lanes * lanes;
  const int pieces = (d + width - 1) / width;
  share(heads * pieces, cost, [&](int task, int worker) {
    const HeadRows& list = head_rows_[task / pieces];
    if (list.count == 0) return;
    const int begin = task % pieces * width, count = std::min(width, d - begin), first = list.head * d + begin;
    const CpuMatrix& weight = matrix_of(linears[list.kind]->weight);
    const float* bias = vector_of(linears[list.kind]->bias);
    float** to = to_.data() + list.first;
    float* moved[block_rows];
    for (int row = 0; row < list.count;) {
      const bool whole = begin == 0;  // a later piece of a head writes further right, so its pointers are moved in small groups
      const int part = whole ? list.count : std::min(block_rows, list.count - row);
      for (int i = 0; !whole && i < part; ++i) moved[i] = to[row + i] + begin;
      float* const* at = whole ? to : moved;
      kernels_.product(
          {from_.data() + list.first + row, at, part, weight.row(first), weight.type, weight.columns, count, int(weight.columns)},
          scratch(worker).product);
      for (int r = 0; bias && r < part; ++r)
        for (int i = 0; i < count; ++i) at[r][i] += bias[first + i];
      row += part;
    }
  });
}

void CpuBackend::store_row(const PoolView& pool, const HeadPages& pages, int position, const float* from) {
  auto* to = static_cast<std::byte*>(const_cast<void*>(page(pool, pages[position / page_rows])));
  kernels_.narrow(from, pool.type, to + size_t(position % page_rows) * pool.row_bytes, config_.head_dim);
}

void CpuBackend::store_rows(const Step& step, const Segment& segment, int layer, int row, Rows& queries) {
  const int d = config_.head_dim, position = segment.position + row - segment.row;
  const bool rotary = !cosines_.empty();
  const size_t angles = rotary ? size_t(row) * size_t(d / 2) : 0;
  const float *cosine = cosines_.data() + angles, *sine = sines_.data() + angles;
  const SegmentHeads heads = heads_of(step, segment, layer);
  if (heads.scores_from == layer) {
    for (int slot = 0; slot < heads.own[0] && rotary; ++slot) kernels_.rotate(row_of(queries, row) + slot * d, cosine, sine, d);
    for (int slot = 0; slot < heads.own[1]; ++slot) {
      float* key = row_of(keys_, row) + slot * d;
      if (rotary) kernels_.rotate(key, cosine, sine, d);
      store_row(step.pool, key_pages(step, segment, layer, slot), position, key);
    }
  }
  for (int slot = 0; slot < heads.own[2]; ++slot)
    store_row(step.pool, value_pages(step, segment, layer, slot), position, row_of(values_, row) + slot * d);
}

void CpuBackend::qkv(const Step& step, Phase phase, int layer, const LayerWeights& weights, const Rows& x, Rows& queries) {
  int rows = 0;
  for (const Segment& segment : step.segments) rows += in_phase(segment, phase) ? segment.count : 0;
  if (rows == 0) return;
  for (const Segment& segment : step.segments) {
    if (!in_phase(segment, phase)) continue;
    const Norm none;
    const Norm& norm = config_.norm_placement == NormPlacement::before ? weights.attention_norm : none;
    share_rows(segment.count, x.width,
               [&](int i, int) { normalise_row(norm, row_of(x, segment.row + i), row_of(normed_, segment.row + i), x.width); });
  }
  list_head_rows(step, phase, layer, queries);
  project_heads(weights, rows);
  for (const Segment& segment : step.segments) {
    if (!in_phase(segment, phase)) continue;
    const int64_t cost = 4 * (config_.query_width() + 2 * config_.key_value_width());
    share_rows(segment.count, cost, [&](int i, int) { store_rows(step, segment, layer, segment.row + i, queries); });
  }
}

}  // namespace chai::cpu
