// Online clustering on the device: feature rows against a double-precision softmax, membership against native/clustering.h on the features
// that the device made (equal to the last tie), tables against write_table, and the hand-over of pages.
#include "clusterer.h"

#include <algorithm>
#include <cstring>
#include <random>

#include "check.h"
#include "clustering.h"
#include "cuda_test.h"
#include "element.h"

namespace chai::cuda {
namespace {

/// One step of warm-up segments for some sequences, its device memory, and what the host put there.
struct WarmStep {
  Config config;
  ClusterRule rule;
  int start = 0, tokens = 5;  // S, W
  Element type = Element::float16;
  int sequences = 1, warm_blocks = 1, table_rows = 0;
  std::vector<float> queries;                // [rows][H * d], rounded to `type`
  std::vector<float> keys;                   // [sequence][Hkv][S+W][d]
  std::vector<std::vector<float>> features;  // [sequence][H * length]
  std::vector<std::vector<int32_t>> tables, block_pages, warm_pages;

  int end() const { return start + tokens; }
  int length() const { return tokens * (2 * start + tokens + 1) / 2; }
};

float rounded(float x, Element type) {
  return type == Element::bfloat16 ? float_of_bfloat16(bfloat16_of_float(x)) : float_of_float16(float16_of_float(x));
}
uint16_t bits_of(float x, Element type) { return type == Element::bfloat16 ? bfloat16_of_float(x) : float16_of_float(x); }

Config config_of(int heads, int key_value_heads, int head_dim, int layers = 2) {
  Config config;
  config.layers = layers, config.heads = heads, config.key_value_heads = key_value_heads, config.head_dim = head_dim;
  config.hidden = heads * head_dim;
  config.attention_scale = 1 / std::sqrt(float(head_dim));
  return config;
}

Geometry geometry_of(const Config& config) {
  Geometry g{};
  g.layers = config.layers, g.heads = config.heads, g.key_value_heads = config.key_value_heads, g.head_dim = config.head_dim;
  g.hidden = config.hidden, g.sliding_window = config.sliding_window, g.attention_scale = config.attention_scale;
  return g;
}

constexpr int layer = 1;  // of two: offsets by layer count

/// Runs tokens [from, to) of every sequence's warm-up through Clusterer. `forced`: features to write in place of those of the first tokens.
class WarmRun {
 public:
  explicit WarmRun(WarmStep& s) : s_(s), device_(test_device()), clusterer_(s.config, s.sequences, device_) {
    const Config& c = s.config;
    table_size_ = HeadTable(c).size();
    s.table_rows = 3 + c.key_value_heads;  // the layer's K slots stand at row 3
    s.warm_blocks = (s.end() + page_rows - 1) / page_rows;
    page_bytes_ = size_t(page_rows) * size_t(c.head_dim) * 2;
    fill_pool();
    for (int i = 0; i < s.sequences; ++i) {
      tables_.emplace_back(std::vector<int32_t>(size_t(c.layers * table_size_), -7));
      block_pages_.emplace_back(std::vector<int32_t>(size_t(s.warm_blocks * s.table_rows), -7));
      warm_pages_.emplace_back(s.warm_pages[size_t(i)]);
      features_.emplace_back(std::vector<float>(size_t(c.layers * c.heads * s.length()), NAN));
      rules_.emplace_back(
          std::vector<RuleRecord>(size_t(c.layers), {int32_t(s.rule.method), s.rule.clusters, s.rule.head_groups, s.rule.key_heads}));
      rows_.emplace_back(std::vector<int32_t>(size_t(c.layers), 3));
    }
  }

  void set_features(int sequence, const std::vector<float>& values) {
    copy_to_device(features_[size_t(sequence)].get() + layer * s_.config.heads * s_.length(), values.data(), values.size() * 4, nullptr);
    synchronize(nullptr);
  }

  /// queries: those of the tokens from..to-1 of all sequences. Extra rows that are no warm-up stand between sequences.
  void run(int from, int to) {
    const Config& c = s_.config;
    const int width = c.heads * c.head_dim, pitch = pitch_of(width), count = to - from;
    std::vector<SegmentRecord> segments;
    std::vector<uint16_t> queries;
    int row = 0;
    for (int i = 0; i < s_.sequences; ++i) {
      segments.push_back({row, 1, 500, 0, (i + 1) % s_.sequences});  // a row of another sequence that decodes
      queries.resize(queries.size() + size_t(pitch), 0xffff);
      segments.push_back({row + 1, count, from, 1, i});
      for (int t = from; t < to; ++t) {
        const size_t at = queries.size();
        queries.resize(at + size_t(pitch), 0xffff);
        for (int e = 0; e < width; ++e)
          queries[at + size_t(e)] = bits_of(s_.queries[(size_t(i) * size_t(s_.end()) + size_t(t)) * size_t(width) + size_t(e)], s_.type);
      }
      row += 1 + count;
    }
    const Upload<uint16_t> device_queries(queries);
    const Upload<SegmentRecord> device_segments(segments);
    std::vector<SequenceRecord> records;
    for (int i = 0; i < s_.sequences; ++i) {
      const size_t at = size_t(i);
      records.push_back({tables_[at].get(), block_pages_[at].get(), warm_pages_[at].get(), features_[at].get(), rows_[at].get(),
                         rows_[at].get(), rules_[at].get(), s_.table_rows, s_.warm_blocks, s_.start, s_.tokens, s_.length()});
    }
    const Upload<SequenceRecord> device_records(records);
    StepView view{};
    view.rows = row, view.segments = int32_t(segments.size()), view.sequences = s_.sequences;
    view.segment = device_segments.get(), view.sequence = device_records.get();
    view.pool = pool_.get(), view.page_bytes = page_bytes_, view.row_bytes = uint32_t(c.head_dim * 2);
    const Upload<StepView> device_view(std::vector<StepView>{view});
    StepLaunch step;
    step.view = device_view.get(), step.rows = row, step.sequences = s_.sequences + 1, step.warm_up = true, step.prefill = true;
    step.geometry = geometry_of(c), step.compute = s_.type, step.cache = s_.type, step.device = &device_;
    clusterer_.cluster(step, layer, device_queries.get());
    synchronize(nullptr);
  }

  void collect() {
    for (size_t i = 0; i < size_t(s_.sequences); ++i) {
      const size_t count = size_t(s_.config.heads * s_.length());
      const auto all = features_[i].read();
      s_.features.emplace_back(all.begin() + long(count) * layer, all.begin() + long(count) * (layer + 1));
      const auto tables = tables_[i].read();
      CHECK(std::all_of(tables.begin(), tables.begin() + table_size_ * layer, [](int32_t x) { return x == -7; }));
      s_.tables.emplace_back(tables.begin() + table_size_ * layer, tables.begin() + table_size_ * (layer + 1));
      s_.block_pages.push_back(block_pages_[i].read());
    }
  }

 private:
  /// Keys of all sequences in shuffled pages; everything else in the pool is NaN.
  void fill_pool() {
    const Config& c = s_.config;
    const size_t page_count = size_t(s_.sequences * c.key_value_heads * s_.warm_blocks);
    std::vector<int32_t> ids(page_count + 3);
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t(i);
    std::shuffle(ids.begin(), ids.end(), std::mt19937(7));
    std::vector<uint16_t> pool(ids.size() * page_bytes_ / 2, 0xffff);
    size_t next = 0;
    for (int i = 0; i < s_.sequences; ++i) {
      std::vector<int32_t> pages(size_t(c.layers * c.key_value_heads * s_.warm_blocks), -9);
      for (int head = 0; head < c.key_value_heads; ++head)
        for (int block = 0; block < s_.warm_blocks; ++block) {
          const int32_t id = ids[next++];
          pages[size_t((layer * c.key_value_heads + head) * s_.warm_blocks + block)] = id;
          for (int t = block * page_rows; t < std::min(s_.end(), (block + 1) * page_rows); ++t)
            for (int e = 0; e < c.head_dim; ++e)
              pool[(size_t(id) * page_rows + size_t(t % page_rows)) * size_t(c.head_dim) + size_t(e)] = bits_of(
                  s_.keys[((size_t(i) * size_t(c.key_value_heads) + size_t(head)) * size_t(s_.end()) + size_t(t)) * size_t(c.head_dim) +
                          size_t(e)],
                  s_.type);
        }
      s_.warm_pages.push_back(std::move(pages));
    }
    pool_ = Upload<unsigned char>(reinterpret_cast<const unsigned char*>(pool.data()), pool.size() * 2);
  }

  WarmStep& s_;
  DeviceFacts device_;
  Clusterer clusterer_;
  int table_size_ = 0;
  size_t page_bytes_ = 0;
  Upload<unsigned char> pool_;
  std::vector<Upload<int32_t>> tables_, block_pages_, warm_pages_, rows_;
  std::vector<Upload<float>> features_;
  std::vector<Upload<RuleRecord>> rules_;
};

void random_content(WarmStep& s, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1.5f);
  const auto fill = [&](std::vector<float>& to, size_t count) {
    to.resize(count);
    for (float& x : to) x = rounded(normal(random), s.type);
  };
  fill(s.queries, size_t(s.sequences * s.end() * s.config.heads * s.config.head_dim));
  fill(s.keys, size_t(s.sequences * s.config.key_value_heads * s.end() * s.config.head_dim));
}

/// Feature vector of one head by the formula alone.
std::vector<double> expected_features(const WarmStep& s, int sequence, int head) {
  const Config& c = s.config;
  const int d = c.head_dim, key_head = head / (c.heads / c.key_value_heads);
  std::vector<double> out;
  for (int i = s.start; i < s.end(); ++i) {
    const float* q = s.queries.data() + (size_t(sequence) * size_t(s.end()) + size_t(i)) * size_t(c.heads * d) + head * d;
    std::vector<double> row(size_t(i + 1), 0.0);
    double sum = 0;
    for (int j = c.sliding_window > 0 ? std::max(0, i - c.sliding_window + 1) : 0; j <= i; ++j) {
      const float* k =
          s.keys.data() + ((size_t(sequence) * size_t(c.key_value_heads) + size_t(key_head)) * size_t(s.end()) + size_t(j)) * size_t(d);
      double dot = 0;
      for (int e = 0; e < d; ++e) dot += double(q[e]) * k[e];
      sum += row[size_t(j)] = std::exp(dot * c.attention_scale);
    }
    for (double& p : row) out.push_back(p / sum);
  }
  return out;
}

Membership membership_of(const std::vector<float>& features, const Config& c, const ClusterRule& rule) {
  return cluster_heads(std::vector<double>(features.begin(), features.end()), c.heads, c.key_value_heads, rule);
}

/// Table and pages that belong to the features.
void check_outcome(const WarmStep& s, int sequence) {
  const Config& c = s.config;
  const LayerHeads heads = clustered_heads(c, layer, membership_of(s.features[size_t(sequence)], c, s.rule));
  std::vector<int32_t> table(size_t(HeadTable(c).size()));
  write_table(heads, c, table.data());
  CHECK(s.tables[size_t(sequence)] == table);
  for (int block = 0; block < s.warm_blocks; ++block)
    for (int row = 0; row < s.table_rows; ++row) {
      const int slot = row - 3;
      const int32_t found = s.block_pages[size_t(sequence)][size_t(block * s.table_rows + row)];
      const bool kept = slot >= 0 && slot < int(heads.kept_keys.size());
      CHECK(
          found ==
          (kept
               ? s.warm_pages[size_t(sequence)][size_t((layer * c.key_value_heads + heads.kept_keys[size_t(slot)]) * s.warm_blocks + block)]
               : -7));
    }
}

void check_features(const WarmStep& s, double limit) {
  for (int i = 0; i < s.sequences; ++i)
    for (int head = 0; head < s.config.heads; ++head) {
      const std::vector<double> expected = expected_features(s, i, head);
      double worst = 0;
      for (size_t e = 0; e < expected.size(); ++e) {
        const double error = std::abs(double(s.features[size_t(i)][size_t(head) * expected.size() + e]) - expected[e]);
        if (!(error <= worst) && !std::isnan(worst)) worst = error;  // NaN stays
      }
      CHECK(worst < limit);
    }
}

/// Runs the warm-up in the given parts and checks all of it.
void check_warm_up(WarmStep s, uint32_t seed, std::vector<int> cuts) {
  random_content(s, seed);
  WarmRun run(s);
  cuts.push_back(s.end());
  int from = 0;
  for (const int to : cuts) run.run(from, to), from = to;
  run.collect();
  check_features(s, 2e-6);
  for (int i = 0; i < s.sequences; ++i) check_outcome(s, i);
}

/// Membership of given features: all but the last token's row are set, that one (the same for all heads, since its queries are 0) goes
/// through the step that ends the warm-up. values(head, element).
template <class Values>
void check_given(const Config& config, const ClusterRule& rule, int tokens, Values values) {
  WarmStep s;
  s.config = config, s.rule = rule, s.tokens = tokens;
  random_content(s, 1);
  std::fill(s.queries.begin(), s.queries.end(), 0.0f);
  std::vector<float> features(size_t(config.heads * s.length()));
  for (int head = 0; head < config.heads; ++head)
    for (int e = 0; e < s.length(); ++e) features[size_t(head * s.length() + e)] = values(head, e);
  WarmRun run(s);
  run.set_features(0, features);
  run.run(tokens - 1, tokens);
  run.collect();
  check_outcome(s, 0);
}

/// Kinds of features on which rounding, ties and degenerate cases decide.
float awkward(int kind, std::mt19937& random, int head) {
  switch (kind) {
    case 0: return float(random() % 1000) / 999;        // nothing special
    case 1: return float(random() % 2);                 // many ties
    case 2: return float(head % 3) / 3;                 // duplicates
    case 3: return 0.25f;                               // all equal
    case 4: return float(random() % 3) * 1e-3f + 0.1f;  // near ties, distances that round
    case 5: return random() % 5 ? float(random() % 4) : random() % 2 ? NAN : INFINITY;
    case 6: return std::ldexp(float(random() % 8), int(random() % 200) - 100);  // magnitudes far apart
    default: return 0;                                                          // no direction
  }
}

}  // namespace

TEST(cuda_warm_up_of_many_shapes) {
  struct Case {
    int heads, keys, dim, start, tokens, clusters;
    std::vector<int> cuts;
  };
  for (const Case& c : {Case{4, 4, 64, 0, 5, 2, {}}, Case{8, 2, 80, 3, 5, 3, {2, 5}}, Case{3, 3, 20, 0, 1, 2, {}},
                        Case{6, 3, 96, 60, 7, 4, {62}}, Case{2, 1, 256, 62, 3, 1, {}}, Case{32, 8, 128, 0, 5, 8, {1, 2, 3, 4}}})
    for (const Element type : {Element::float16, Element::bfloat16}) {
      set_schedule(unsigned(c.heads + (type == Element::float16)) % 6);
      WarmStep s;
      s.config = config_of(c.heads, c.keys, c.dim);
      s.start = c.start, s.tokens = c.tokens, s.type = type, s.sequences = 1 + c.heads % 3;
      s.rule.clusters = c.clusters;
      s.rule.method = c.start ? Clustering::average_linkage_cosine : Clustering::kmeans;
      check_warm_up(s, uint32_t(c.heads), c.cuts);
    }
}

TEST(cuda_warm_up_under_a_sliding_window_and_at_its_longest) {
  WarmStep s;
  s.config = config_of(4, 2, 16);
  s.config.sliding_window = 3;
  s.rule.clusters = 2, s.start = 2, s.tokens = 6;
  check_warm_up(s, 3, {4});
  WarmStep longest;
  longest.config = config_of(3, 3, 8);
  longest.rule.clusters = 2, longest.tokens = 256;
  check_warm_up(longest, 4, {100});
}

TEST(cuda_membership_equals_the_hosts_to_the_last_tie) {
  std::mt19937 random(11);
  for (int round = 0; round < 150; ++round) {
    set_schedule(unsigned(round) % 6);
    const int heads_per_key = 1 << (random() % 3), key_heads = 1 + int(random() % 8), heads = heads_per_key * key_heads;
    ClusterRule rule;
    rule.method = round % 2 ? Clustering::average_linkage_cosine : Clustering::kmeans;
    rule.clusters = round % 10 == 0 ? heads : round % 10 == 1 ? 1 : 1 + int(random() % unsigned(heads));
    if (round % 3 == 0) rule.key_heads = 1 + int(random() % unsigned(key_heads));
    const int kind = round % 8, tokens = round % 4 == 0 ? 9 : 2 + int(random() % 4);  // 9 tokens: longer than a tile
    std::mt19937 content(random());
    check_given(config_of(heads, key_heads, 8), rule, tokens, [&](int head, int) { return awkward(kind, content, head); });
  }
}

TEST(cuda_membership_of_groups_and_of_many_heads) {
  std::mt19937 random(12);
  for (int round = 0; round < 24; ++round) {
    set_schedule(unsigned(round) % 6);
    const int groups = 1 << (1 + random() % 2), size = 4 + int(random() % 5) * 2, heads = groups * size;
    ClusterRule rule;
    rule.method = round % 2 ? Clustering::average_linkage_cosine : Clustering::kmeans;
    rule.head_groups = groups, rule.clusters = groups * (1 + int(random() % unsigned(size)));
    if (round % 3 == 0) rule.key_heads = groups + int(random() % unsigned(heads / 2 - groups + 1));
    std::mt19937 content(random());
    check_given(config_of(heads, heads / 2, 8), rule, 4, [&](int head, int) { return awkward(round % 7, content, head); });
  }
  for (const int heads : {65, 128}) {
    ClusterRule rule;
    rule.clusters = heads / 4;
    for (const int kind : {0, 1, 3}) {
      rule.method = kind == 1 ? Clustering::average_linkage_cosine : Clustering::kmeans;
      std::mt19937 content(random());
      check_given(config_of(heads, heads, 4), rule, 4, [&](int head, int) { return awkward(kind, content, head); });
    }
  }
}

}  // namespace chai::cuda
