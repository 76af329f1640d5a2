// Warm-up features and membership on the CPU: softmax rows of the warm-up tokens, clustering, tables, page hand-over; see cpu_backend.h.
#include "cpu_backend.h"

namespace chai::cpu {

/// Feature rows of one head for this segment's tokens among S .. S+W-1: softmax over keys 0 .. i, row i after row i - 1.
void CpuBackend::feature_rows(const Step& step, const Segment& segment, int layer, int head, const Rows& queries, int worker) {
  const SequenceView& sequence = step.sequences[segment.sequence];
  const HeadPlan& plan = *sequence.geometry->plan;
  const int d = config_.head_dim, start = plan.warmup_start, element = int(bytes_of(step.pool.type));
  const HeadPages keys = key_pages(step, segment, layer, head / (config_.heads / config_.key_value_heads));
  float* features = sequence.features + (int64_t(layer) * config_.heads + head) * plan.feature_length();
  const int from = std::max(start, segment.position), to = std::min(plan.warmup_end(), segment.position + segment.count);
  for (int i = from; i < to; ++i) {
    const int before = i - start;  // feature rows before this one; together they have before * start + before (before + 1) / 2 entries
    float* row = features + before * start + before * (before + 1) / 2;
    const float* query = row_of(queries, segment.row + i - segment.position) + head * d;
    for (int at = 0; at <= i; at += page_rows) {
      float* part = row + at;
      kernels_.product({&query, &part, 1, page(step.pool, keys[at / page_rows]), step.pool.type, int64_t(step.pool.row_bytes) / element,
                        std::min(page_rows, i + 1 - at), d},
                       scratch(worker).product);
    }
    const int first = first_key(i);
    for (int j = 0; j < first; ++j) row[j] = 0;
    const SoftmaxState state = kernels_.softmax(row, first, i + 1, config_.attention_scale);
    kernels_.divide(row + first, state.sum, row + first, i + 1 - first);
  }
}

void CpuBackend::find_membership(const Step& step, const Segment& segment, int layer) {
  const SequenceView& sequence = step.sequences[segment.sequence];
  const PlanGeometry& geometry = *sequence.geometry;
  const int64_t count = int64_t(config_.heads) * geometry.plan->feature_length();
  const float* from = sequence.features + layer * count;
  const std::vector<double> features(from, from + count);
  const Membership membership = cluster_heads(features, config_.heads, config_.key_value_heads, geometry.plan->layers[layer].rule);
  const LayerHeads heads = clustered_heads(config_, layer, membership);
  write_table(heads, config_, table_of(sequence, layer));
  for (int slot = 0; slot < int(heads.kept_keys.size()); ++slot) {
    const HeadPages warm = key_pages(step, segment, layer, heads.kept_keys[slot]);
    for (int block = 0; block < geometry.warm_blocks; ++block)
      sequence.block_pages[int64_t(block) * geometry.table_rows + geometry.key_row[layer] + slot] = warm[block];
  }
}

void CpuBackend::cluster(const Step& step, int layer, const Rows& queries) {
  for (const Segment& segment : step.segments) {
    if (!segment.warm_up) continue;
    const int end = segment.position + segment.count, warm_end = step.sequences[segment.sequence].geometry->plan->warmup_end();
    share(config_.heads, int64_t(segment.count) * end * config_.query_width(),
          [&](int head, int worker) { feature_rows(step, segment, layer, head, queries, worker); });
    if (end == warm_end) find_membership(step, segment, layer);
  }
}

}  // namespace chai::cpu
