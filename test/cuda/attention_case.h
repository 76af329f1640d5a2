// Ragged attention steps with a head map of its own for every sequence, and what they must give, in double precision.
// In: head maps, contexts, segments. Out: pages among NaN, a step on the device, the expected rows. Shares no code with the kernels.
#pragma once
#include <cmath>
#include <memory>

#include "attention.h"
#include "check.h"
#include "cuda_test.h"
#include "element.h"
#include "kv_cache.h"
#include "random_heads.h"
#include "step_arena.h"

namespace chai::cuda {

inline Config attention_config(int heads, int key_value_heads, int head_dim) {
  Config c;
  c.layers = 2, c.heads = heads, c.key_value_heads = key_value_heads, c.head_dim = head_dim;
  c.hidden = c.embedding = heads * head_dim, c.intermediate = 8, c.vocabulary = 16, c.context = 4096;
  c.attention_scale = 1.5f / std::sqrt(float(head_dim));
  return c;
}

inline uint16_t narrow(double x, Element type) {
  return type == Element::float16 ? float16_of_float(float(x)) : bfloat16_of_float(float(x));
}
inline double widen(uint16_t bits, Element type) { return type == Element::float16 ? float_of_float16(bits) : float_of_bfloat16(bits); }
inline double half_step(Element type) { return type == Element::float16 ? 0x1p-11 : 0x1p-8; }  // of rounding, relative, and to spare

class AttentionCase {
 public:
  struct Sequence {
    HeadMap map;
    bool warm = false;  // method chai, S = 3, W = 5
    int length = 0;     // tokens in the cache after the step
    std::shared_ptr<const PlanGeometry> geometry;
    std::vector<int32_t> pages, warm_pages, tables;
    std::vector<uint16_t> keys, values;  // [layers][Hkv][length][d], rounded
    Upload<int32_t> device_pages, device_warm, device_tables;
  };
  struct Part {  // a segment to be
    int sequence, position, count;
    bool warm_up;
  };

  AttentionCase(const Config& config, Element compute, Element cache, uint32_t seed)
      : config_(config), compute_(compute), cache_(cache), random_(seed), device_(test_device()) {}

  /// The longest segment end is the sequence's length.
  int add_sequence(HeadMap map, bool warm = false) {
    sequences_.emplace_back();
    sequences_.back().map = std::move(map), sequences_.back().warm = warm;
    return int(sequences_.size()) - 1;
  }
  int add_sequence(HeadKind kind, bool warm = false) { return add_sequence(random_heads(config_, kind, random_), warm); }
  void add_segment(int sequence, int position, int count, bool warm_up = false) { parts_.push_back({sequence, position, count, warm_up}); }
  std::mt19937& random() { return random_; }
  DeviceFacts& device() { return device_; }
  int rows() const { return step_.rows(); }
  const Step& step() const { return step_; }

  /// Draws contents and lays them out.
  void build() {
    for (const Part& part : parts_) {
      Sequence& s = sequences_[size_t(part.sequence)];
      s.length = std::max(s.length, part.position + part.count);
      step_.segments.push_back({step_.rows(), part.count, part.position, part.warm_up, part.sequence});
      for (int i = 0; i < part.count; ++i) step_.tokens.push_back(0), step_.positions.push_back(part.position + i);
    }
    for (size_t i = 0; i < sequences_.size(); ++i) lay_out(sequences_[i], unsigned(i));
    step_.pool.row_bytes = size_t(config_.head_dim) * 2;
    step_.pool.page_bytes = (step_.pool.row_bytes * page_rows + 255) / 256 * 256;
    step_.pool.type = cache_;
    std::vector<int32_t> shuffled(size_t(pages_) + 3);
    for (size_t i = 0; i < shuffled.size(); ++i) shuffled[i] = int32_t(i);
    std::shuffle(shuffled.begin(), shuffled.end(), random_);
    std::vector<uint16_t> pool(shuffled.size() * step_.pool.page_bytes / 2, 0xffff);  // NaN
    for (size_t i = 0; i < sequences_.size(); ++i) {
      Sequence& s = sequences_[i];
      for (auto* ids : {&s.pages, &s.warm_pages})
        for (int32_t& id : *ids) id = shuffled[size_t(id)];
      fill_pages(int(i), pool);
      s.device_pages = Upload<int32_t>(s.pages), s.device_warm = Upload<int32_t>(s.warm_pages), s.device_tables = Upload<int32_t>(s.tables);
      step_.sequences.push_back({s.geometry.get(), s.device_tables.get(), s.device_pages.get(), s.device_warm.get(), nullptr});
    }
    pool_ = Upload<uint16_t>(pool);
    step_.pool.base = pool_.get();
    const size_t width = size_t(pitch());
    for (int layer = 0; layer < config_.layers; ++layer) {
      std::vector<uint16_t> rows(width * size_t(rows_in_buffers()), 0xffff);
      for (const Part& part : parts_) draw_queries(part, layer, rows);
      queries_.push_back(rows);
      device_queries_.emplace_back(rows);
      query_pointers_.push_back(device_queries_.back().get());
    }
    device_pointers_ = Upload<const void*>(query_pointers_);
  }

  StepLaunch launch(int bucket = 0) {
    arena_ = std::make_unique<StepArena>(config_, std::max(1, step_.rows()), std::max(1, int(step_.sequences.size())));
    arena_->fill(step_, nullptr, nullptr, nullptr);
    StepLaunch out;
    out.view = arena_->view(), out.host = bucket ? nullptr : &step_;
    out.rows = bucket ? bucket : step_.rows(), out.sequences = bucket ? bucket : int(step_.sequences.size());
    for (const Segment& segment : step_.segments) out.warm_up |= segment.warm_up, out.prefill |= segment.count > 1;
    const Config& c = config_;
    out.geometry = {c.layers, c.heads, c.key_value_heads, c.head_dim, c.hidden, c.sliding_window, c.attention_scale};
    out.compute = compute_, out.cache = cache_, out.device = &device_;
    return out;
  }

  /// All layers: bits of mixed, [layers][rows in buffers][pitch].
  std::vector<std::vector<uint16_t>> run(Attention& attention, int bucket = 0) {
    const StepLaunch step = launch(bucket);
    const Upload<uint16_t> mixed(std::vector<uint16_t>(size_t(pitch()) * size_t(rows_in_buffers()), 0xffff));
    std::vector<std::vector<uint16_t>> out;
    attention.begin(step);
    for (int layer = 0; layer < config_.layers; ++layer) {
      copy_to_device(mixed.get(), std::vector<uint16_t>(mixed.read().size(), 0xffff).data(), mixed.read().size() * 2, nullptr);
      attention.attend(step, layer, device_pointers_.get(), mixed.get());
      out.push_back(mixed.read());
    }
    return out;
  }
  std::vector<std::vector<uint16_t>> run() {
    Attention attention(config_, std::max(64, step_.rows()), std::max(1, int(step_.sequences.size())), device_);
    return run(attention);
  }

  /// Largest error as a part of what rounding may cause (above 1 is wrong); infinite when a row is missing, NaN, or one too many is
  /// written.
  double error(const std::vector<std::vector<uint16_t>>& mixed) const {
    double worst = 0;
    for (int layer = 0; layer < config_.layers; ++layer) {
      for (const Segment& segment : step_.segments)
        for (int i = 0; i < segment.count; ++i)
          for (int h = 0; h < config_.heads; ++h) {
            const double e = head_error(segment, i, layer, h, mixed[size_t(layer)]);
            if (!(e <= worst)) worst = std::isnan(e) ? INFINITY : e;
          }
      for (size_t i = size_t(step_.rows() * pitch()); i < mixed[size_t(layer)].size(); ++i)
        if (mixed[size_t(layer)][i] != 0xffff) return INFINITY;
    }
    return worst;
  }
  int pitch() const { return (config_.heads * config_.head_dim + 7) / 8 * 8; }
  int rows_in_buffers() const { return step_.rows() + 5; }

 private:
  /// Contents depend on the sequence, layer and position alone, never on what else is in the step.
  void draw_queries(const Part& part, int layer, std::vector<uint16_t>& rows) {
    const int before = int(&part - parts_.data());
    int row = 0;
    for (int i = 0; i < before; ++i) row += parts_[size_t(i)].count;
    for (int i = 0; i < part.count; ++i, ++row) {
      std::minstd_rand random(unsigned(1 + part.sequence * 40000 + layer * 10000 + part.position + i));
      random.discard(8);
      std::normal_distribution<double> normal;
      for (int e = 0; e < config_.heads * config_.head_dim; ++e) rows[size_t(row * pitch() + e)] = narrow(normal(random), cache_);
    }
  }
  void lay_out(Sequence& s, unsigned index) {
    std::mt19937 random(index + 100);
    std::normal_distribution<double> normal;
    HeadPlan plan;
    plan.method = s.warm ? Method::chai : Method::explicit_map;
    if (!s.warm && s.map == HeadMap{identity_heads(config_, 0), identity_heads(config_, 1)}) plan.method = Method::dense;
    plan.warmup_start = 3, plan.warmup_tokens = 5;
    for (const LayerHeads& heads : s.map) plan.layers.push_back({{Clustering::kmeans, config_.heads, 1, 0}, heads});
    s.geometry = make_geometry(std::make_shared<HeadPlan>(plan), config_);
    for (const LayerHeads& heads : s.map) {
      std::vector<int32_t> table(size_t(HeadTable(config_).size()), -1);
      write_table(heads, config_, table.data());
      s.tables.insert(s.tables.end(), table.begin(), table.end());
    }
    const int blocks = (s.length + page_rows - 1) / page_rows;
    for (int i = 0; i < blocks * s.geometry->table_rows; ++i) s.pages.push_back(pages_++);
    for (int i = 0; i < config_.layers * config_.key_value_heads * s.geometry->warm_blocks; ++i) s.warm_pages.push_back(pages_++);
    for (auto* rows : {&s.keys, &s.values}) {
      rows->resize(size_t(config_.layers * config_.key_value_heads * s.length * config_.head_dim));
      for (uint16_t& x : *rows) x = narrow(normal(random), cache_);
    }
    for (int layer = 0; s.warm && layer < config_.layers; ++layer)  // representatives' warm pages become their slots' first
      for (size_t slot = 0; slot < s.map[size_t(layer)].kept_keys.size(); ++slot)
        s.pages[size_t(s.geometry->key_row[size_t(layer)]) + slot] =
            s.warm_pages[size_t(layer * config_.key_value_heads + s.map[size_t(layer)].kept_keys[slot])];
  }
  const uint16_t* row_of(const std::vector<uint16_t>& rows, const Sequence& s, int layer, int head, int position) const {
    return rows.data() + (size_t(layer * config_.key_value_heads + head) * size_t(s.length) + size_t(position)) * size_t(config_.head_dim);
  }
  /// Keys that no row of the step sees any more may be gone.
  int first_kept(int sequence) const {
    int first = sequences_[size_t(sequence)].length;
    for (const Part& part : parts_)
      if (part.sequence == sequence) first = std::min(first, first_seen(part.position));
    return first;
  }
  int first_seen(int position) const { return config_.sliding_window > 0 ? std::max(0, position - config_.sliding_window + 1) : 0; }

  void fill_pages(int sequence, std::vector<uint16_t>& pool) {
    const Sequence& s = sequences_[size_t(sequence)];
    const size_t d = size_t(config_.head_dim), page_elements = step_.pool.page_bytes / 2;
    const auto put = [&](int32_t page, int position, const uint16_t* from) {
      std::copy(from, from + d, pool.begin() + std::ptrdiff_t(size_t(page) * page_elements + size_t(position % page_rows) * d));
    };
    for (int layer = 0; layer < config_.layers; ++layer)
      for (int position = first_kept(sequence); position < s.length; ++position) {
        const LayerHeads& heads = s.map[size_t(layer)];
        const int32_t* pages = s.pages.data() + position / page_rows * s.geometry->table_rows;
        for (size_t slot = 0; slot < heads.kept_keys.size(); ++slot)
          put(pages[size_t(s.geometry->key_row[size_t(layer)]) + slot], position,
              row_of(s.keys, s, layer, heads.kept_keys[slot], position));
        for (size_t slot = 0; slot < heads.kept_values.size(); ++slot)
          put(pages[size_t(s.geometry->value_row[size_t(layer)]) + slot], position,
              row_of(s.values, s, layer, heads.kept_values[slot], position));
        for (int head = 0; s.warm && position < 8 && head < config_.key_value_heads; ++head)
          put(s.warm_pages[size_t(layer * config_.key_value_heads + head)], position, row_of(s.keys, s, layer, head, position));
      }
  }

  double head_error(const Segment& segment, int i, int layer, int h, const std::vector<uint16_t>& mixed) const {
    const Sequence& s = sequences_[size_t(segment.sequence)];
    const LayerHeads own = segment.warm_up ? identity_heads(config_, layer) : s.map[size_t(layer)];
    const LayerHeads source = segment.warm_up ? own : s.map[size_t(own.scores_from)];
    const int slot = own.score_of_query[size_t(h)], d = config_.head_dim, position = segment.position + i;
    const int key_head = source.kept_keys[size_t(source.key_of_score[size_t(slot)])];
    const int value_head = own.kept_values[size_t(own.value_of_query[size_t(h)])];
    const uint16_t* query = queries_[size_t(own.scores_from)].data() + (segment.row + i) * pitch() + slot * d;
    std::vector<double> p;
    const int first = first_seen(position);
    for (int j = first; j <= position; ++j) {
      const uint16_t* key = row_of(s.keys, s, own.scores_from, key_head, j);
      double score = 0;
      for (int e = 0; e < d; ++e) score += widen(query[e], cache_) * widen(key[e], cache_);
      p.push_back(score * double(config_.attention_scale));
    }
    const double most = *std::max_element(p.begin(), p.end());
    double sum = 0, worst = 0;
    for (double& x : p) sum += x = std::exp(x - most);
    std::vector<double> value(size_t(d), 0.0), size(size_t(d), 0.0);
    for (int j = first; j <= position; ++j) {
      const uint16_t* v = row_of(s.values, s, layer, value_head, j);
      for (int e = 0; e < d; ++e) {
        value[size_t(e)] += p[size_t(j - first)] / sum * widen(v[e], cache_);
        size[size_t(e)] += p[size_t(j - first)] / sum * std::abs(widen(v[e], cache_));
      }
    }
    for (int e = 0; e < d; ++e) {
      const double got = widen(mixed[size_t((segment.row + i) * pitch() + h * d + e)], compute_);
      const double bound =
          half_step(cache_) * size[size_t(e)] + half_step(compute_) * std::abs(value[size_t(e)]) + 1e-4 * size[size_t(e)] + 1e-5;
      const double error = std::abs(got - value[size_t(e)]) / bound;
      if (!(error <= worst)) worst = std::isnan(error) ? INFINITY : error;
    }
    return worst;
  }

  Config config_;
  Element compute_, cache_;
  std::mt19937 random_;
  DeviceFacts device_;
  std::vector<Sequence> sequences_;
  std::vector<Part> parts_;
  int32_t pages_ = 0;
  Step step_;
  Upload<uint16_t> pool_;
  std::vector<std::vector<uint16_t>> queries_;
  std::vector<Upload<uint16_t>> device_queries_;
  std::vector<const void*> query_pointers_;
  Upload<const void*> device_pointers_;
  std::unique_ptr<StepArena> arena_;
};

/// Two prompts that cross the end of their warm-up, one of them whole, beside a decode row.
inline void add_mixed_step(AttentionCase& c) {
  const int first = c.add_sequence(HeadKind::clustered, true), second = c.add_sequence(HeadKind::clustered, true);
  c.add_segment(first, 0, 8, true);
  c.add_segment(first, 8, 70);  // the rest of the prompt, in the same step
  c.add_segment(second, 5, 3, true);
  c.add_segment(second, 8, 4);
  c.add_segment(c.add_sequence(HeadKind::dense), 99, 1);
}

}  // namespace chai::cuda
