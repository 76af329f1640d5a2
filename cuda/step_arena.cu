// The step's records on their way to the device; see step_arena.h.
#include <algorithm>
#include <cstring>

#include "launch.cuh"
#include "step_arena.h"

namespace chai::cuda {

static_assert(page_rows == chai::page_rows);

namespace {

constexpr int threads = 128;

/// Rows whose token the step before has drawn get it.
__global__ void __launch_bounds__(threads) take_drawn(int32_t* tokens, int rows, const int32_t* drawn) {
  const int row = int(blockIdx.x) * threads + int(threadIdx.x);
  if (row < rows && tokens[row] < 0) tokens[row] = drawn[~tokens[row]];  // see token_of_draw
}

}  // namespace

template <class T>
size_t StepArena::place(size_t count) {
  const size_t at = (end_ + 15) / 16 * 16;
  end_ = at + count * sizeof(T);
  return at;
}

StepArena::StepArena(const Config& config, int rows, int sequences, int places)
    : layers_(config.layers), rows_(rows), sequences_(sequences) {
  const size_t r = size_t(rows), s = size_t(sequences), per_layer = s * size_t(layers_);
  view_ = place<StepView>(1);
  tokens_ = place<int32_t>(r);
  positions_ = place<int32_t>(r);
  row_segment_ = place<int32_t>(r);
  logit_row_ = place<int32_t>(r);
  segment_ = place<SegmentRecord>(r);
  sequence_ = place<SequenceRecord>(s);
  identity_ = place<int32_t>(size_t(HeadTable(config).size()));
  key_row_ = place<int32_t>(per_layer);
  value_row_ = place<int32_t>(per_layer);
  rules_ = place<RuleRecord>(per_layer);
  place<uint4>(0);  // the next place begins as well aligned
  host_ = PinnedArray<unsigned char>(end_ * size_t(places), "the step's records");
  device_ = DeviceArray<unsigned char>(end_, "the step's records");
  std::memset(host_.get(), 0, host_.count());
  for (int i = 0; i < places; ++i) {
    filled_ = host_.get() + size_t(i) * end_;
    int32_t* identity = host<int32_t>(identity_);
    std::fill(identity, identity + HeadTable(config).size(), -1);
    write_table(identity_heads(config, 0), config, identity);
  }
}

void StepArena::fill_sequences(const Step& step) {
  for (size_t i = 0; i < step.sequences.size(); ++i) {
    const SequenceView& from = step.sequences[i];
    const PlanGeometry& geometry = *from.geometry;
    const HeadPlan& plan = *geometry.plan;
    const size_t first = i * size_t(layers_);
    const bool clustered = plan.method == Method::chai;
    std::copy(geometry.key_row.begin(), geometry.key_row.end(), host<int32_t>(key_row_) + first);
    std::copy(geometry.value_row.begin(), geometry.value_row.end(), host<int32_t>(value_row_) + first);
    for (int layer = 0; clustered && layer < layers_; ++layer) {
      const ClusterRule& rule = plan.layers[size_t(layer)].rule;
      host<RuleRecord>(rules_)[first + size_t(layer)] = {int32_t(rule.method), rule.clusters, rule.head_groups, rule.key_heads};
    }
    SequenceRecord& to = host<SequenceRecord>(sequence_)[i];
    to.tables = from.tables, to.block_pages = from.block_pages, to.warm_pages = from.warm_pages, to.features = from.features;
    to.key_row = device<int32_t>(key_row_) + first;
    to.value_row = device<int32_t>(value_row_) + first;
    to.rules = clustered ? device<RuleRecord>(rules_) + first : nullptr;
    to.table_rows = geometry.table_rows, to.warm_blocks = geometry.warm_blocks;
    to.warmup_start = clustered ? plan.warmup_start : 0;
    to.warmup_tokens = clustered ? plan.warmup_tokens : 0;
    to.feature_length = clustered ? plan.feature_length() : 0;
  }
}

void StepArena::fill(const Step& step, const float* cosines, const float* sines, Stream stream, int place, const int32_t* drawn) {
  filled_ = host_.get() + size_t(place) * end_;
  std::copy(step.tokens.begin(), step.tokens.end(), host<int32_t>(tokens_));
  std::copy(step.positions.begin(), step.positions.end(), host<int32_t>(positions_));
  std::copy(step.logit_rows.begin(), step.logit_rows.end(), host<int32_t>(logit_row_));
  for (size_t i = 0; i < step.segments.size(); ++i) {
    const Segment& from = step.segments[i];
    host<SegmentRecord>(segment_)[i] = {from.row, from.count, from.position, from.warm_up ? 1 : 0, from.sequence};
    std::fill_n(host<int32_t>(row_segment_) + from.row, from.count, int32_t(i));
  }
  fill_sequences(step);
  StepView& view = *host<StepView>(view_);
  view.rows = step.rows(), view.segments = int32_t(step.segments.size()), view.sequences = int32_t(step.sequences.size());
  view.logit_rows = int32_t(step.logit_rows.size());
  view.tokens = device<int32_t>(tokens_), view.positions = device<int32_t>(positions_);
  view.row_segment = device<int32_t>(row_segment_), view.logit_row = device<int32_t>(logit_row_);
  view.segment = device<SegmentRecord>(segment_), view.sequence = device<SequenceRecord>(sequence_);
  view.identity = device<int32_t>(identity_);
  view.cosines = cosines, view.sines = sines;
  view.pool = static_cast<unsigned char*>(step.pool.base);
  view.page_bytes = step.pool.page_bytes, view.row_bytes = uint32_t(step.pool.row_bytes);
  copy_to_device(device_.get(), filled_, end_, stream);
  if (std::any_of(step.tokens.begin(), step.tokens.end(), [](int32_t token) { return token < 0; }))
    launch(take_drawn, {dim3(unsigned((step.rows() + threads - 1) / threads)), dim3(threads), 0, stream},
           reinterpret_cast<int32_t*>(device_.get() + tokens_), step.rows(), drawn);
}

}  // namespace chai::cuda
