// Projection and warm-up clustering of the CPU backend against double precision: sequences with different head maps in one step.
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "backend.h"
#include "check.h"
#include "error.h"
#include "kv_cache.h"
#include "random_heads.h"

using namespace chai;

namespace {

using Matrix64 = std::vector<double>;

Config small_config() {
  Config c;
  c.layers = 1, c.heads = 6, c.key_value_heads = 3, c.head_dim = 10;
  c.hidden = c.embedding = 37, c.intermediate = 20, c.vocabulary = 11, c.context = 256;
  c.attention_scale = 0.3f;
  c.rotary_scale = 1.25f;
  for (int i = 0; i < 5; ++i) c.rotary_frequencies.push_back(std::pow(0.3f, float(i)));
  return c;
}

/// A backend with one layer of random weights; the same weights as doubles.
struct Layer {
  Config config = small_config();
  std::unique_ptr<Backend> backend = make_cpu_backend({2});
  LayerWeights weights;
  Matrix64 norm, projection[3], bias[3];  // query, key, value
  std::mt19937 random{11};

  Layer() {
    norm = tensor(1, config.hidden, weights.attention_norm.weight);
    Linear* linears[] = {&weights.query, &weights.key, &weights.value};
    for (int kind = 0; kind < 3; ++kind) {
      const int rows = kind == 0 ? config.query_width() : config.key_value_width();
      projection[kind] = tensor(rows, config.hidden, linears[kind]->weight);
      bias[kind] = tensor(1, rows, linears[kind]->bias);
    }
  }
  Matrix64 tensor(int rows, int columns, MatrixRef& to) {
    std::normal_distribution<float> normal(0, 0.4f);
    std::vector<float> values(size_t(rows) * columns);
    for (float& value : values) value = normal(random);
    TensorSource source{Element::float32, rows, columns, {}, nullptr};
    source.read = [&](size_t offset, size_t bytes, void* out) {
      std::memcpy(out, reinterpret_cast<const std::byte*>(values.data()) + offset, bytes);
    };
    to = backend->prepare(source);
    return {values.begin(), values.end()};
  }

  /// One head of one projection of one row, rotated unless it is a value.
  Matrix64 expected(int kind, int head, const float* x, int position) const {
    const int d = config.head_dim;
    double square = 0;
    for (int i = 0; i < config.hidden; ++i) square += double(x[i]) * x[i] / config.hidden;
    Matrix64 out;
    for (int n = head * d; n < (head + 1) * d; ++n) {
      double sum = bias[kind][size_t(n)];
      for (int i = 0; i < config.hidden; ++i)
        sum += projection[kind][size_t(n * config.hidden + i)] * norm[size_t(i)] * x[i] / std::sqrt(square + 1e-5);
      out.push_back(sum);
    }
    if (kind == 2) return out;
    const Matrix64 plain = out;
    for (int i = 0; i < d / 2; ++i) {
      const double angle = position * double(config.rotary_frequencies[size_t(i)]), c = 1.25 * std::cos(angle), s = 1.25 * std::sin(angle);
      out[size_t(i)] = plain[size_t(i)] * c - plain[size_t(i + d / 2)] * s;
      out[size_t(i + d / 2)] = plain[size_t(i + d / 2)] * c + plain[size_t(i)] * s;
    }
    return out;
  }
};

/// One sequence of one layer with host-side tables; page p of this sequence is number first_page + p of the pool.
struct Sequence {
  std::shared_ptr<const PlanGeometry> geometry;
  std::vector<int32_t> table, pages, warm;
  std::vector<float> features;

  Sequence(const Config& config, HeadPlan plan, int blocks, int& next_page) {
    geometry = make_geometry(std::make_shared<HeadPlan>(plan), config);
    table.assign(size_t(HeadTable(config).size()), -1);
    if (plan.method != Method::chai) write_table(plan.layers[0].heads, config, table.data());
    for (int i = 0; i < blocks * geometry->table_rows; ++i) pages.push_back(next_page++);
    for (int i = 0; i < config.key_value_heads * geometry->warm_blocks; ++i) warm.push_back(next_page++);
    if (plan.method == Method::chai) features.assign(size_t(config.heads) * plan.feature_length(), -1.0f);
  }
  SequenceView view() { return {geometry.get(), table.data(), pages.data(), warm.data(), features.data()}; }
};

HeadPlan plan_of(const LayerHeads& heads) {
  HeadPlan plan;
  plan.method = Method::explicit_map;
  plan.layers.push_back({{}, heads});
  return plan;
}

HeadPlan chai_plan(int clusters, int start, int tokens) {
  HeadPlan plan;
  plan.method = Method::chai;
  plan.warmup_start = start, plan.warmup_tokens = tokens;
  plan.layers.push_back({{Clustering::kmeans, clusters, 1, 0}, {}});
  return plan;
}

double worst_error(const float* got, const Matrix64& want) {
  double worst = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::abs(double(got[i]) - want[i]);
    worst = error <= worst ? worst : error;
  }
  return worst;
}

}  // namespace

TEST(cpu_qkv_and_cluster_agree_with_double_precision_across_head_maps) {
  Layer layer;
  const Config& config = layer.config;
  const int d = config.head_dim, start = 1, tokens = 4, warm_end = start + tokens;
  int next_page = 0;
  std::vector<Sequence> sequences;
  sequences.emplace_back(config, plan_of(identity_heads(config, 0)), 2, next_page);
  sequences.emplace_back(config, plan_of(random_free(config, 0, layer.random)), 2, next_page);
  sequences.emplace_back(config, chai_plan(2, start, tokens), 1, next_page);
  sequences.emplace_back(config, plan_of(random_clusters(config, 0, layer.random)), 2, next_page);

  Step step;
  step.pool.type = Element::float32;
  step.pool.row_bytes = size_t(d) * 4;
  step.pool.page_bytes = step.pool.row_bytes * page_rows;
  std::vector<float> pool(size_t(next_page) * page_rows * d, std::numeric_limits<float>::quiet_NaN());
  step.pool.base = pool.data();
  for (auto& sequence : sequences) step.sequences.push_back(sequence.view());
  step.segments = {{0, 3, 62, false, 0},
                   {3, 20, 50, false, 1},
                   {23, warm_end, 0, true, 2},
                   {23 + warm_end, 9, warm_end, false, 2},
                   {32 + warm_end, 1, 64, false, 3}};
  for (const Segment& segment : step.segments)
    for (int i = 0; i < segment.count; ++i) step.tokens.push_back(0), step.positions.push_back(segment.position + i);

  Backend& backend = *layer.backend;
  backend.plan(config, step.rows(), 4);
  Rows x = backend.allocate_rows(step.rows(), config.hidden, "x"), queries = backend.allocate_rows(step.rows(), config.query_width(), "q");
  auto* input = static_cast<float*>(x.memory.get());
  std::normal_distribution<float> normal(0, 1);
  for (int i = 0; i < step.rows() * config.hidden; ++i) input[i] = normal(layer.random);
  backend.begin(step);
  backend.qkv(step, Phase::warm_up, 0, layer.weights, x, queries);
  backend.cluster(step, 0, queries);
  const std::vector<float> warm_queries(static_cast<float*>(queries.memory.get()),
                                        static_cast<float*>(queries.memory.get()) + step.rows() * config.query_width());
  backend.qkv(step, Phase::rest, 0, layer.weights, x, queries);

  // Features in double precision.
  const Segment warm_up = step.segments[2];
  const auto x_row = [&](int row) { return input + row * config.hidden; };
  Matrix64 features;
  for (int head = 0; head < config.heads; ++head)
    for (int i = start; i < warm_end; ++i) {
      const auto query = layer.expected(0, head, x_row(warm_up.row + i), i);
      Matrix64 row;
      double total = 0;
      for (int j = 0; j <= i; ++j) {
        const auto key = layer.expected(1, head / 2, x_row(warm_up.row + j), j);
        double score = 0;
        for (int c = 0; c < d; ++c) score += query[size_t(c)] * key[size_t(c)];
        row.push_back(std::exp(score * double(config.attention_scale)));
        total += row.back();
      }
      for (const double weight : row) features.push_back(weight / total);
    }
  CHECK(worst_error(sequences[2].features.data(), features) < 1e-5);
  // From the features just proven: the members of a cluster of two are equally near its centre, so rounding would decide between them.
  const Matrix64 own(sequences[2].features.begin(), sequences[2].features.end());
  const Membership membership = cluster_heads(own, config.heads, config.key_value_heads, {Clustering::kmeans, 2, 1, 0});
  const LayerHeads found = clustered_heads(config, 0, membership);
  CHECK(read_table(sequences[2].table.data(), config) == found);
  for (size_t slot = 0; slot < found.kept_keys.size(); ++slot)
    CHECK(sequences[2].pages[slot] == sequences[2].warm[size_t(found.kept_keys[slot])]);

  const auto page_row = [&](const Sequence& sequence, int table_row, int position) {
    return &pool[(size_t(sequence.pages[size_t(position / 64 * sequence.geometry->table_rows + table_row)]) * 64 + size_t(position % 64)) *
                 size_t(d)];
  };
  for (const Segment& segment : step.segments) {
    const Sequence& sequence = sequences[size_t(segment.sequence)];
    const LayerHeads heads = segment.warm_up ? identity_heads(config, 0) : read_table(sequence.table.data(), config);
    const auto& from = segment.warm_up ? warm_queries
                                       : std::vector<float>(static_cast<float*>(queries.memory.get()),
                                                            static_cast<float*>(queries.memory.get()) + warm_queries.size());
    for (int i = 0; i < segment.count; ++i) {
      const int row = segment.row + i, position = segment.position + i;
      for (size_t slot = 0; slot < heads.query_of_score.size(); ++slot)
        CHECK(worst_error(&from[size_t(row * config.query_width()) + slot * size_t(d)],
                          layer.expected(0, heads.query_of_score[slot], x_row(row), position)) < 1e-5);
      for (size_t slot = 0; slot < heads.kept_keys.size(); ++slot) {
        const float* key = segment.warm_up ? &pool[(size_t(sequence.warm[slot]) * 64 + size_t(position)) * size_t(d)]
                                           : page_row(sequence, sequence.geometry->key_row[0] + int(slot), position);
        CHECK(worst_error(key, layer.expected(1, heads.kept_keys[slot], x_row(row), position)) < 1e-5);
      }
      for (size_t slot = 0; slot < heads.kept_values.size(); ++slot)
        CHECK(worst_error(page_row(sequence, sequence.geometry->value_row[0] + int(slot), position),
                          layer.expected(2, heads.kept_values[slot], x_row(row), position)) < 1e-5);
    }
  }
}

TEST(cpu_weights_are_read_in_chunks_used_in_place_when_mapped_and_errors_pass_through) {
  const auto backend = make_cpu_backend({1});
  const int64_t rows = 3000, columns = 1000;  // 6 MB of float16: more than one chunk
  std::vector<uint16_t> data(size_t(rows * columns));
  for (size_t i = 0; i < data.size(); ++i) data[i] = uint16_t(i % 0x7000);
  size_t calls = 0, next = 0;
  TensorSource source{Element::float16, rows, columns, {}, nullptr};
  source.read = [&](size_t offset, size_t bytes, void* to) {
    ++calls;
    CHECK(offset == next);
    next += bytes;
    std::memcpy(to, reinterpret_cast<const std::byte*>(data.data()) + offset, bytes);
  };
  const auto matrix = backend->prepare(source);
  CHECK(matrix->rows == rows && matrix->columns == columns && calls > 1 && next == data.size() * 2);
  source.mapped = data.data();
  calls = 0;
  backend->prepare(source);
  CHECK(calls == 0);
  source.mapped = nullptr;
  source.read = [](size_t, size_t, void*) { throw Error(Code::aborted, "enough"); };
  Code code = Code::closed;
  try {
    backend->prepare(source);
  } catch (const Error& error) {
    code = error.code;
  }
  CHECK(code == Code::aborted);
}
