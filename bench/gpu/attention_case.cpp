// Attention on random pages; see attention_case.h.
#include "attention_case.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace chai::bench {
namespace {

int blocks_of(const AttentionShape& s) { return (s.context + page_rows - 1) / page_rows; }
int key_slots(const AttentionShape& s, int clusters) { return std::min(clusters, s.key_value_heads); }

Config config_of(const AttentionShape& s) {
  Config config;
  config.layers = int(s.clusters.size()), config.heads = s.heads, config.key_value_heads = s.key_value_heads, config.head_dim = s.head_dim;
  config.hidden = config.embedding = s.heads * s.head_dim, config.context = s.context, config.vocabulary = 32000;
  config.intermediate = config.hidden * 43 / 16;  // 11008 beside 4096
  config.attention_scale = 1 / std::sqrt(float(s.head_dim));
  for (int i = 0; i < s.head_dim / 2; ++i) config.rotary_frequencies.push_back(float(std::pow(10000.0, -2.0 * i / s.head_dim)));
  return config;
}

/// Uploads to device memory that lives as long as `held`.
template <class T>
T* kept_upload(const std::vector<T>& from, std::vector<std::shared_ptr<void>>& held, cuda::Stream stream) {
  Memory memory = cuda::allocate_shared(from.size() * sizeof(T), "tables of the benchmark");
  cuda::copy_to_device(memory.get(), from.data(), from.size() * sizeof(T), stream);
  cuda::synchronize(stream);
  held.push_back(memory);
  return static_cast<T*>(memory.get());
}

}  // namespace

double page_bytes_of(const AttentionShape& s) {
  double slots = 0;
  for (const int clusters : s.clusters) slots += key_slots(s, clusters) + s.key_value_heads;
  return slots * s.batch * blocks_of(s) * page_rows * s.head_dim * 2.0;
}

Membership uneven_clusters(int heads, int clusters, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int> order(size_t(heads), 0);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random);
  Membership membership;
  membership.cluster_of.assign(size_t(heads), 0);
  for (int i = 0; i < heads; ++i) {
    const double u = double(random()) / 4294967296.0;
    membership.cluster_of[size_t(order[size_t(i)])] = i < clusters ? i : int(clusters * u * u);
  }
  for (int c = 0; c < clusters; ++c) membership.representatives.push_back(order[size_t(c)]);
  return membership;
}

AttentionCase::AttentionCase(const AttentionShape& shape, const cuda::DeviceFacts& device, cuda::Stream stream)
    : shape_(shape), config_(config_of(shape)), plan_(std::make_shared<HeadPlan>()) {
  // A plan that shares nothing is dense to the kernels too: they then take another path through prefill.
  const bool dense = std::ranges::all_of(shape.clusters, [&](int clusters) { return clusters == shape.heads; });
  plan_->method = dense ? Method::dense : Method::explicit_map;
  for (int layer = 0; layer < layers(); ++layer) {
    const int clusters = shape.clusters[size_t(layer)];
    PlanLayer made;
    made.heads = clusters == shape.heads ? identity_heads(config_, layer)
                                         : clustered_heads(config_, layer, uneven_clusters(shape.heads, clusters, 17u + unsigned(layer)));
    geometry_.key_row.push_back(geometry_.table_rows);
    geometry_.value_row.push_back(geometry_.table_rows + int(made.heads.kept_keys.size()));
    geometry_.table_rows += int(made.heads.kept_keys.size() + made.heads.kept_values.size());
    const double pairs = shape.rows == 1 ? shape.context : double(shape.rows) * (shape.context - (shape.rows - 1) / 2.0);
    const double head = 2.0 * shape.batch * pairs * shape.head_dim;
    bytes_ += double(made.heads.kept_keys.size() + made.heads.kept_values.size()) * shape.batch * shape.context * shape.head_dim * 2.0;
    executed_flops_ += head * (clusters + shape.heads);
    dense_flops_ += head * 2 * shape.heads;
    plan_->layers.push_back(std::move(made));
  }
  geometry_.plan = plan_;
  fill_tables();
  fill_pages(stream);
  const size_t rows = size_t(step_.rows()), pitch = size_t(cuda::pitch_of(config_.query_width()));
  arena_ = std::make_unique<cuda::StepArena>(config_, int(rows), shape.batch);
  arena_->fill(step_, nullptr, nullptr, stream);
  queries_ = cuda::DeviceArray<uint16_t>(rows * pitch, "queries of the benchmark");
  mixed_ = cuda::DeviceArray<uint16_t>(rows * pitch, "results of the benchmark");
  fill_random(queries_.get(), rows * pitch, shape.bfloat16, 5, stream);
  const std::vector<const void*> pointers(size_t(layers()), queries_.get());
  query_pointers_ = cuda::DeviceArray<const void*>(pointers.size(), "pointers of the benchmark");
  cuda::copy_to_device(query_pointers_.get(), pointers.data(), pointers.size() * sizeof(void*), stream);
  cuda::synchronize(stream);
  launch_.stream = stream, launch_.view = arena_->view(), launch_.host = &step_;
  launch_.rows = int(rows), launch_.sequences = shape.batch, launch_.prefill = shape.rows > 1;
  launch_.compute = launch_.cache = shape.bfloat16 ? Element::bfloat16 : Element::float16;
  launch_.device = &device;
  cuda::Geometry& g = launch_.geometry;
  g.layers = config_.layers, g.heads = config_.heads, g.key_value_heads = config_.key_value_heads, g.head_dim = config_.head_dim;
  g.hidden = config_.hidden, g.attention_scale = config_.attention_scale;
}

/// Segments, and each sequence's head tables and page table; pages in random order, as after some time of use.
void AttentionCase::fill_tables() {
  const int table_size = HeadTable(config_).size(), blocks = blocks_of(shape_);
  pages_.resize(size_t(shape_.batch) * size_t(blocks) * size_t(geometry_.table_rows));
  std::iota(pages_.begin(), pages_.end(), 0);
  std::shuffle(pages_.begin(), pages_.end(), std::mt19937(3));
  step_.sequences.resize(size_t(shape_.batch));
  for (int i = 0; i < shape_.batch; ++i) {
    std::vector<int32_t> tables(size_t(layers() * table_size));
    for (int layer = 0; layer < layers(); ++layer)
      write_table(plan_->layers[size_t(layer)].heads, config_, tables.data() + layer * table_size);
    const size_t count = size_t(blocks) * size_t(geometry_.table_rows), first = size_t(i) * count;
    SequenceView& sequence = step_.sequences[size_t(i)];
    sequence.geometry = &geometry_;
    sequence.tables = kept_upload(tables, held_, nullptr);
    sequence.block_pages =
        kept_upload(std::vector<int32_t>(pages_.begin() + long(first), pages_.begin() + long(first + count)), held_, nullptr);
    const int position = shape_.context - shape_.rows;
    step_.segments.push_back({i * shape_.rows, shape_.rows, position, false, i});
    for (int row = 0; row < shape_.rows; ++row) step_.tokens.push_back(0), step_.positions.push_back(position + row);
  }
}

void AttentionCase::fill_pages(cuda::Stream stream) {
  step_.pool.row_bytes = size_t(shape_.head_dim) * 2, step_.pool.page_bytes = step_.pool.row_bytes * page_rows;
  step_.pool.type = shape_.bfloat16 ? Element::bfloat16 : Element::float16;
  const size_t bytes = size_t(page_bytes_of(shape_));
  Memory pool = cuda::allocate_shared(bytes, "pages of the benchmark");
  fill_random(pool.get(), bytes / 2, shape_.bfloat16, 9, stream);
  cuda::synchronize(stream);
  step_.pool.base = pool.get();
  held_.push_back(std::move(pool));
}

void AttentionCase::use_rotary(const float* cosines, const float* sines) {
  for (const Segment& segment : step_.segments) step_.logit_rows.push_back(segment.row + segment.count - 1);
  launch_.logit_rows = int(step_.logit_rows.size());
  arena_->fill(step_, cosines, sines, launch_.stream);
  cuda::synchronize(launch_.stream);
}

void AttentionCase::plan(cuda::Attention& attention, bool recording) {
  launch_.host = recording ? nullptr : &step_;
  attention.begin(launch_);
  launch_.host = &step_;
}

void AttentionCase::enqueue(cuda::Attention& attention) {
  for (int layer = 0; layer < layers(); ++layer) attention.attend(launch_, layer, query_pointers_.get(), mixed_.get());
}

}  // namespace chai::bench
