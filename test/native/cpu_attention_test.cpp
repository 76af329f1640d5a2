// Attention of the CPU backend against a plain double-precision reference, under random head maps, and bit for bit against itself.
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

#include "backend.h"
#include "check.h"
#include "kv_cache.h"
#include "random_heads.h"

using namespace chai;

namespace {

/// Some sequences of given lengths with random queries, keys and values; whatever no row may read is NaN.
struct Case {
  Config config;
  HeadMap map;
  Element type;
  std::shared_ptr<const PlanGeometry> geometry;
  std::vector<int> lengths;
  std::vector<std::vector<float>> queries;                     // [layers][all positions of all sequences x heads * head_dim]
  std::vector<std::vector<std::vector<double>>> keys, values;  // [sequence][table row][position * head_dim]
  std::mt19937 random;

  Case(Config c, HeadKind kind, Element type, std::vector<int> lengths, unsigned seed)
      : config(std::move(c)), type(type), lengths(std::move(lengths)), random(seed) {
    map = random_heads(config, kind, random);
    auto plan = std::make_shared<HeadPlan>();
    plan->method = Method::explicit_map;
    for (const auto& heads : map) plan->layers.push_back({{}, heads});
    geometry = make_geometry(plan, config);
    std::normal_distribution<float> normal(0, 1);
    int total = 0;
    for (const int length : this->lengths) total += length;
    queries.assign(size_t(config.layers), std::vector<float>(size_t(total) * config.query_width()));
    for (auto& layer : queries)
      for (float& value : layer) value = normal(random);
    for (const int length : this->lengths) {
      auto& rows = keys.emplace_back(size_t(geometry->table_rows));
      for (auto& row : rows)
        for (int i = 0; i < length * config.head_dim; ++i) row.push_back(rounded(normal(random)));
    }
  }

  double rounded(float value) const {
    if (type == Element::float16) return float_of_float16(float16_of_float(value));
    if (type == Element::bfloat16) return float_of_bfloat16(bfloat16_of_float(value));
    return value;
  }
  int first_row(int sequence) const {
    int row = 0;
    for (int s = 0; s < sequence; ++s) row += lengths[size_t(s)];
    return row;
  }

  /// mixed row of one position in double precision.
  std::vector<double> expected(int sequence, int layer, int position) const {
    const LayerHeads& own = map[size_t(layer)];
    const int source = own.scores_from, d = config.head_dim;
    const LayerHeads& from = map[size_t(source)];
    const auto& rows = keys[size_t(sequence)];
    const float* query = &queries[size_t(source)][size_t(first_row(sequence) + position) * config.query_width()];
    const int first = config.sliding_window ? std::max(0, position - config.sliding_window + 1) : 0;
    std::vector<double> mixed;
    for (int head = 0; head < config.heads; ++head) {
      const int slot = own.score_of_query[size_t(head)];
      const auto& key = rows[size_t(geometry->key_row[size_t(source)] + from.key_of_score[size_t(slot)])];
      const auto& value = rows[size_t(geometry->value_row[size_t(layer)] + own.value_of_query[size_t(head)])];
      std::vector<double> weights, sum(size_t(d), 0.0);
      double greatest = -1e300, total = 0;
      for (int j = first; j <= position; ++j) {
        double score = 0;
        for (int i = 0; i < d; ++i) score += double(query[slot * d + i]) * key[size_t(j * d + i)];
        weights.push_back(score * double(config.attention_scale));
        greatest = std::max(greatest, weights.back());
      }
      for (double& weight : weights) total += weight = std::exp(weight - greatest);
      for (int j = first; j <= position; ++j)
        for (int i = 0; i < d; ++i) sum[size_t(i)] += weights[size_t(j - first)] / total * value[size_t(j * d + i)];
      mixed.insert(mixed.end(), sum.begin(), sum.end());
    }
    return mixed;
  }
};

struct Part {
  int sequence, position, count;
};

/// Runs attend for these rows; cache rows past the last row of a sequence's parts are NaN. Out: mixed rows, [rows x heads * head_dim].
std::vector<float> attend(const Case& test, int layer, const std::vector<Part>& parts, int threads) {
  const Config& config = test.config;
  const auto backend = make_cpu_backend({threads});
  const PlanGeometry& geometry = *test.geometry;
  const int d = config.head_dim, width = config.query_width(), table_size = HeadTable(config).size();
  Step step;
  step.pool.type = test.type;
  step.pool.row_bytes = size_t(d) * bytes_of(test.type);
  step.pool.page_bytes = step.pool.row_bytes * page_rows;
  std::vector<int32_t> tables(size_t(table_size) * config.layers);
  for (int l = 0; l < config.layers; ++l) write_table(test.map[size_t(l)], config, &tables[size_t(l) * table_size]);

  std::vector<std::vector<int32_t>> pages(test.lengths.size());
  std::vector<uint8_t> pool;
  std::vector<std::vector<float>> queries(size_t(config.layers));
  std::vector<int> ends(test.lengths.size(), 0);
  for (const Part& part : parts) ends[size_t(part.sequence)] = std::max(ends[size_t(part.sequence)], part.position + part.count);
  int page_count = 0;
  for (size_t s = 0; s < pages.size(); ++s)
    for (int i = 0; i < (ends[s] + page_rows - 1) / page_rows * geometry.table_rows; ++i) pages[s].push_back(page_count++);
  std::mt19937 random(99);  // pages of a sequence lie anywhere
  std::vector<int32_t> places(static_cast<size_t>(page_count));
  std::iota(places.begin(), places.end(), 0);
  std::shuffle(places.begin(), places.end(), random);
  pool.assign(size_t(page_count) * step.pool.page_bytes + 1, 0xff);  // all NaN in every type
  for (size_t s = 0; s < pages.size(); ++s) {
    for (auto& page : pages[s]) page = places[size_t(page)];
    for (int row = 0; row < geometry.table_rows; ++row)
      for (int i = 0; i < ends[s] * d; ++i) {
        const int position = i / d;
        const int page = pages[s][size_t(position / page_rows * geometry.table_rows + row)];
        uint8_t* to = &pool[size_t(page) * step.pool.page_bytes + size_t(position % page_rows) * step.pool.row_bytes +
                            size_t(i % d) * bytes_of(test.type)];
        const float value = float(test.keys[s][size_t(row)][size_t(i)]);
        const uint16_t bits = test.type == Element::float16 ? float16_of_float(value) : bfloat16_of_float(value);
        std::memcpy(to, test.type == Element::float32 ? static_cast<const void*>(&value) : &bits, bytes_of(test.type));
      }
    SequenceView view;
    view.geometry = test.geometry.get();
    view.tables = tables.data();
    view.block_pages = pages[s].data();
    step.sequences.push_back(view);
  }
  step.pool.base = pool.data();
  for (const Part& part : parts) {
    step.segments.push_back({step.rows(), part.count, part.position, false, part.sequence});
    for (int i = 0; i < part.count; ++i) {
      step.tokens.push_back(0);
      step.positions.push_back(part.position + i);
      for (int l = 0; l < config.layers; ++l) {
        const float* from = &test.queries[size_t(l)][size_t(test.first_row(part.sequence) + part.position + i) * width];
        queries[size_t(l)].insert(queries[size_t(l)].end(), from, from + width);
      }
    }
  }
  backend->plan(config, step.rows(), int(pages.size()));
  std::vector<Rows> rows;
  for (auto& layer : queries) {
    rows.push_back(backend->allocate_rows(step.rows(), width, "queries"));
    backend->upload(rows.back().memory.get(), layer.data(), layer.size() * sizeof(float));
  }
  Rows mixed = backend->allocate_rows(step.rows(), width, "mixed");
  std::vector<float> out(size_t(step.rows()) * width, std::numeric_limits<float>::quiet_NaN());
  backend->upload(mixed.memory.get(), out.data(), out.size() * sizeof(float));
  backend->begin(step);
  backend->attend(step, layer, rows, mixed);
  backend->download(out.data(), mixed.memory.get(), out.size() * sizeof(float));
  return out;
}

Config config_of(int heads, int key_value_heads, int head_dim, int window = 0) {
  Config c;
  c.layers = 2, c.heads = heads, c.key_value_heads = key_value_heads, c.head_dim = head_dim;
  c.hidden = c.embedding = 32, c.intermediate = 32, c.vocabulary = 10, c.context = 1024;
  c.attention_scale = 1 / std::sqrt(float(head_dim));
  c.sliding_window = window;
  return c;
}

void check_against_reference(const Case& test, const std::vector<Part>& parts) {
  const int width = test.config.query_width();
  for (int layer = 0; layer < test.config.layers; ++layer) {
    const auto mixed = attend(test, layer, parts, 2);
    double worst = 0;
    int row = 0;
    for (const Part& part : parts)
      for (int i = 0; i < part.count; ++i, ++row) {
        const auto want = test.expected(part.sequence, layer, part.position + i);
        for (int c = 0; c < width; ++c) {
          const double error = std::abs(double(mixed[size_t(row) * width + c]) - want[size_t(c)]);
          worst = error <= worst ? worst : error;
        }
      }
    CHECK(worst < 5e-6);
  }
}

bool same_bits(const float* a, const float* b, size_t count) { return std::memcmp(a, b, count * sizeof(float)) == 0; }

constexpr HeadKind kinds[] = {HeadKind::dense, HeadKind::clustered, HeadKind::free, HeadKind::shared_layers};

}  // namespace

TEST(cpu_attention_agrees_with_double_precision_under_any_head_map) {
  unsigned seed = 0;
  for (const HeadKind kind : kinds)
    for (const auto [heads, key_value_heads, head_dim] : {std::array{8, 8, 16}, std::array{8, 2, 20}, std::array{6, 3, 64}})
      for (const Element type : {Element::float32, Element::float16, Element::bfloat16}) {
        const Case test(config_of(heads, key_value_heads, head_dim), kind, type, {1, 63, 64, 65, 130, 300}, ++seed);
        check_against_reference(test, {{0, 0, 1}, {1, 62, 1}, {2, 0, 64}, {3, 60, 5}, {4, 100, 30}, {5, 299, 1}});
      }
}

TEST(cpu_attention_agrees_with_double_precision_in_a_sliding_window) {
  unsigned seed = 100;
  for (const int window : {1, 5, 64, 100, 300})
    for (const HeadKind kind : {HeadKind::dense, HeadKind::shared_layers}) {
      const Case test(config_of(4, 2, 16, window), kind, Element::float32, {330, 70}, ++seed);
      check_against_reference(test, {{0, 0, 330}, {1, 69, 1}});
    }
}

TEST(cpu_attention_of_a_row_has_the_same_bits_alone_in_chunks_and_on_any_threads) {
  unsigned seed = 200;
  for (const HeadKind kind : kinds)
    for (const int window : {0, 90})
      for (const Element type : {Element::float32, Element::float16}) {
        const Case test(config_of(4, 2, 24, window), kind, type, {40, 700}, ++seed);
        const size_t width = size_t(test.config.query_width());
        for (int layer = 0; layer < 2; ++layer) {
          const auto whole = attend(test, layer, {{0, 0, 40}, {1, 0, 700}}, 1);
          CHECK(attend(test, layer, {{0, 0, 40}, {1, 0, 700}}, 3) == whole);
          for (const auto [position, count] :
               {std::array{0, 1}, std::array{63, 2}, std::array{250, 11}, std::array{511, 1}, std::array{650, 50}, std::array{699, 1}})
            for (const int threads : {1, 3}) {
              const auto part = attend(test, layer, {{1, position, count}}, threads);
              CHECK(same_bits(part.data(), whole.data() + (40 + size_t(position)) * width, part.size()));
            }
          const auto decode = attend(test, layer, {{0, 39, 1}, {1, 699, 1}}, 4);  // few rows: chunks on different threads
          CHECK(same_bits(decode.data(), whole.data() + 39 * width, width));
          CHECK(same_bits(decode.data() + width, whole.data() + 739 * width, width));
        }
      }
}
