// The backend interface in plain double precision, one loop a sum: the measure for every other backend. In: as backend.h. Out: the same.
// Written from the papers' formulas alone; it shares no arithmetic with the backends it measures.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend.h"
#include "clustering.h"

namespace chai {

class ReferenceBackend : public Backend {
 public:
  struct DoubleMatrix : Matrix {
    std::vector<double> data;
    double at(int64_t r, int64_t c) const { return data[size_t(r * columns + c)]; }
  };

  std::string describe() const override { return "reference (float64)"; }
  DeviceMemory memory() const override { return {1ull << 40, 1ull << 40}; }
  Memory allocate(size_t bytes, const char*) override {
    return Memory(new char[bytes](), [](void* p) { delete[] static_cast<char*>(p); });
  }
  Memory reserve(size_t bytes, const char* what) override { return allocate(bytes, what); }
  Rows allocate_rows(int rows, int width, const char* what) override {
    return {allocate(sizeof(double) * size_t(rows) * size_t(width), what), rows, width};
  }
  void upload(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void download(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void copy(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }

  MatrixRef prepare(const TensorSource& source) override {
    auto matrix = std::make_shared<DoubleMatrix>();
    matrix->rows = source.rows, matrix->columns = source.columns;
    const size_t count = size_t(source.rows * source.columns);
    std::vector<unsigned char> bytes(count * bytes_of(source.type));
    source.read(0, bytes.size(), bytes.data());
    for (size_t i = 0; i < count; ++i) matrix->data.push_back(element(bytes.data(), source.type, i));
    return matrix;
  }
  void download_logits(const Rows& logits, int row, int count, float* host) override {
    for (int i = 0; i < count * logits.width; ++i) host[i] = float(of(logits, row)[i]);
  }

  void plan(const Config& config, int, int) override { config_ = config; }
  void begin(const Step&) override {}

  void embed(const Step& step, const ModelWeights& w, Rows& x) override {
    for (int r = 0; r < step.rows(); ++r) {
      std::vector<double> token(size_t(config_.embedding));
      for (int i = 0; i < config_.embedding; ++i) token[size_t(i)] = m(w.token_embedding).at(step.tokens[size_t(r)], i);
      if (w.embedding_projection) token = product(w.embedding_projection, nullptr, token.data(), 0, config_.hidden);
      for (int i = 0; i < config_.hidden; ++i) {
        double value = token[size_t(i)];
        if (w.position_embedding) value += m(w.position_embedding).at(step.positions[size_t(r)] + config_.position_offset, i);
        of(x, r)[i] = value;
      }
    }
  }

  void qkv(const Step& step, Phase phase, int layer, const LayerWeights& w, const Rows& x, Rows& queries) override {
    const int d = config_.head_dim;
    for (const Segment& segment : step.segments) {
      if (segment.warm_up != (phase == Phase::warm_up)) continue;
      const LayerHeads heads = heads_of(step, segment, layer);
      for (int i = 0; i < segment.count; ++i) {
        const int row = segment.row + i, position = segment.position + i;
        std::vector<double> normed(of(x, row), of(x, row) + config_.hidden);
        if (config_.norm_placement == NormPlacement::before) normalise(w.attention_norm, normed.data());
        for (size_t slot = 0; slot < heads.query_of_score.size(); ++slot) {
          auto q = product(w.query.weight, w.query.bias, normed.data(), heads.query_of_score[slot] * d, d);
          rotate(q, position);
          std::copy(q.begin(), q.end(), of(queries, row) + slot * size_t(d));
        }
        for (size_t slot = 0; slot < heads.kept_keys.size(); ++slot) {
          auto k = product(w.key.weight, w.key.bias, normed.data(), heads.kept_keys[slot] * d, d);
          rotate(k, position);
          write(step.pool, key_page(step, segment, layer, int(slot), position), position, k);
        }
        for (size_t slot = 0; slot < heads.kept_values.size(); ++slot)
          write(step.pool, value_page(step, segment, layer, int(slot), position), position,
                product(w.value.weight, w.value.bias, normed.data(), heads.kept_values[slot] * d, d));
      }
    }
  }

  void cluster(const Step& step, int layer, const Rows& queries) override {
    for (const Segment& segment : step.segments) {
      if (!segment.warm_up) continue;
      const SequenceView& view = step.sequences[size_t(segment.sequence)];
      const HeadPlan& plan = *view.geometry->plan;
      const int length = plan.feature_length(), first = plan.warmup_start, end = plan.warmup_end();
      float* features = view.features + size_t(layer) * size_t(config_.heads) * size_t(length);
      for (int i = 0; i < segment.count; ++i) {
        const int position = segment.position + i;
        if (position < first) continue;
        int at = 0;
        for (int p = first; p < position; ++p) at += p + 1;
        for (int h = 0; h < config_.heads; ++h) {
          const int key_head = h / (config_.heads / config_.key_value_heads);
          const auto p = probabilities(step, segment, layer, key_head, position, of(queries, segment.row + i) + h * config_.head_dim, 0);
          for (int j = 0; j <= position; ++j) features[h * length + at + j] = float(p[size_t(j)]);
        }
      }
      if (segment.position + segment.count < end) continue;
      const std::vector<double> wide(features, features + size_t(config_.heads) * size_t(length));
      const auto heads =
          clustered_heads(config_, layer, cluster_heads(wide, config_.heads, config_.key_value_heads, plan.layers[size_t(layer)].rule));
      write_table(heads, config_, view.tables + layer * HeadTable(config_).size());
      for (size_t slot = 0; slot < heads.kept_keys.size(); ++slot)
        for (int b = 0; b < view.geometry->warm_blocks; ++b)
          view.block_pages[b * view.geometry->table_rows + view.geometry->key_row[size_t(layer)] + int(slot)] =
              view.warm_pages[(layer * config_.key_value_heads + heads.kept_keys[slot]) * view.geometry->warm_blocks + b];
    }
  }

  void attend(const Step& step, int layer, std::span<const Rows> queries, Rows& mixed) override {
    const int d = config_.head_dim;
    for (const Segment& segment : step.segments) {
      const LayerHeads own = heads_of(step, segment, layer), source = heads_of(step, segment, own.scores_from);
      for (int i = 0; i < segment.count; ++i) {
        const int row = segment.row + i, position = segment.position + i;
        const int first = config_.sliding_window > 0 ? std::max(0, position - config_.sliding_window + 1) : 0;
        for (int h = 0; h < config_.heads; ++h) {
          const int slot = own.score_of_query[size_t(h)];
          const double* q = of(queries[size_t(own.scores_from)], row) + slot * d;
          const auto p = probabilities(step, segment, own.scores_from, source.key_of_score[size_t(slot)], position, q, first);
          double* out = of(mixed, row) + h * d;
          std::fill(out, out + d, 0.0);
          for (int j = first; j <= position; ++j) {
            const auto v = read(step.pool, value_page(step, segment, layer, own.value_of_query[size_t(h)], j), j);
            for (int e = 0; e < d; ++e) out[e] += p[size_t(j)] * v[size_t(e)];
          }
        }
      }
    }
  }

  void output(const Step& step, const LayerWeights& w, const Rows& mixed, Rows& x) override {
    for (int r = 0; r < step.rows(); ++r) {
      add(of(x, r), product(w.attention_output.weight, w.attention_output.bias, of(mixed, r), 0, config_.hidden));
      if (config_.norm_placement == NormPlacement::after) normalise(w.attention_norm, of(x, r));
    }
  }

  void feed_forward(const Step& step, const LayerWeights& w, Rows& x) override {
    for (int r = 0; r < step.rows(); ++r) {
      std::vector<double> normed(of(x, r), of(x, r) + config_.hidden);
      if (config_.norm_placement == NormPlacement::before) normalise(w.feed_forward_norm, normed.data());
      auto inner = product(w.up.weight, w.up.bias, normed.data(), 0, config_.intermediate);
      if (config_.gated) {
        const auto gate = product(w.gate.weight, w.gate.bias, normed.data(), 0, config_.intermediate);
        for (size_t i = 0; i < inner.size(); ++i) inner[i] *= activate(gate[i]);
      } else {
        for (double& value : inner) value = activate(value);
      }
      add(of(x, r), product(w.down.weight, w.down.bias, inner.data(), 0, config_.hidden));
      if (config_.norm_placement == NormPlacement::after) normalise(w.feed_forward_norm, of(x, r));
    }
  }

  void logits(const Step& step, const ModelWeights& w, const Rows& x, Rows& logits) override {
    for (size_t i = 0; i < step.logit_rows.size(); ++i) {
      std::vector<double> row(of(x, step.logit_rows[i]), of(x, step.logit_rows[i]) + config_.hidden);
      if (w.final_norm.weight) normalise(w.final_norm, row.data());
      if (w.output_projection) row = product(w.output_projection, nullptr, row.data(), 0, config_.embedding);
      const auto out = product(w.output, nullptr, row.data(), 0, config_.vocabulary);
      std::copy(out.begin(), out.end(), of(logits, int(i)));
    }
  }

  void sample(const Step& step, const Rows& logits) override {
    drawn_.clear();
    for (const Draw& want : step.draws) {
      std::vector<float> row(size_t(config_.vocabulary));
      download_logits(logits, want.logit_row, 1, row.data());
      drawn_.push_back(draw(row, want.sampling, want.history, want.index));
    }
  }
  void finish(Step& step) override {
    for (const Drawn& drawn : drawn_) step.drawn.push_back(drawn.id), step.logprobs.push_back(drawn.logprob);
    drawn_.clear();
  }

 private:
  static const DoubleMatrix& m(const MatrixRef& matrix) { return static_cast<const DoubleMatrix&>(*matrix); }
  static double* of(const Rows& rows, int row) { return static_cast<double*>(rows.memory.get()) + size_t(row) * size_t(rows.width); }
  static double element(const unsigned char* bytes, Element type, size_t i) {
    if (type == Element::float32) {
      float value;
      std::memcpy(&value, bytes + 4 * i, 4);
      return value;
    }
    uint16_t half;
    std::memcpy(&half, bytes + 2 * i, 2);
    return type == Element::float16 ? float_of_float16(half) : float_of_bfloat16(half);
  }
  static void add(double* x, const std::vector<double>& y) {
    for (size_t i = 0; i < y.size(); ++i) x[i] += y[i];
  }
  std::vector<double> product(const MatrixRef& weight, const MatrixRef& bias, const double* x, int first, int count) const {
    std::vector<double> y;
    for (int n = first; n < first + count; ++n) {
      double sum = bias ? m(bias).at(0, n) : 0;
      for (int64_t k = 0; k < weight->columns; ++k) sum += m(weight).at(n, k) * x[k];
      y.push_back(sum);
    }
    return y;
  }
  void normalise(const Norm& norm, double* x) const {
    const int n = config_.hidden;
    double mean = 0, square = 0;
    if (config_.norm == NormKind::layer) {
      for (int i = 0; i < n; ++i) mean += x[i] / n;
    }
    for (int i = 0; i < n; ++i) square += (x[i] - mean) * (x[i] - mean) / n;
    const double factor = 1 / std::sqrt(square + config_.norm_epsilon);
    for (int i = 0; i < n; ++i) x[i] = (x[i] - mean) * factor * m(norm.weight).at(0, i) + (norm.bias ? m(norm.bias).at(0, i) : 0);
  }
  double activate(double x) const {
    switch (config_.activation) {
      case Activation::relu: return std::max(0.0, x);
      case Activation::silu: return x / (1 + std::exp(-x));
      case Activation::gelu: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
      case Activation::gelu_tanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    }
    return 0;
  }
  void rotate(std::vector<double>& head, int position) const {
    const size_t half = config_.rotary_frequencies.size();
    for (size_t i = 0; i < half; ++i) {
      const double angle = double(float(position) * config_.rotary_frequencies[i]);
      const double c = std::cos(angle) * config_.rotary_scale, s = std::sin(angle) * config_.rotary_scale, a = head[i], b = head[i + half];
      head[i] = a * c - b * s;
      head[i + half] = b * c + a * s;
    }
  }

  LayerHeads heads_of(const Step& step, const Segment& segment, int layer) const {
    if (segment.warm_up) return identity_heads(config_, layer);
    return read_table(step.sequences[size_t(segment.sequence)].tables + layer * HeadTable(config_).size(), config_);
  }
  int32_t key_page(const Step& step, const Segment& segment, int layer, int slot, int position) const {
    const SequenceView& view = step.sequences[size_t(segment.sequence)];
    const int block = position / page_rows;
    if (segment.warm_up) return view.warm_pages[(layer * config_.key_value_heads + slot) * view.geometry->warm_blocks + block];
    return view.block_pages[block * view.geometry->table_rows + view.geometry->key_row[size_t(layer)] + slot];
  }
  int32_t value_page(const Step& step, const Segment& segment, int layer, int slot, int position) const {
    const SequenceView& view = step.sequences[size_t(segment.sequence)];
    return view.block_pages[(position / page_rows) * view.geometry->table_rows + view.geometry->value_row[size_t(layer)] + slot];
  }
  unsigned char* cell(const PoolView& pool, int32_t page, int position) const {
    return static_cast<unsigned char*>(pool.base) + size_t(page) * pool.page_bytes + size_t(position % page_rows) * pool.row_bytes;
  }
  void write(const PoolView& pool, int32_t page, int position, const std::vector<double>& head) const {
    for (size_t i = 0; i < head.size(); ++i) {
      const float value = float(head[i]);
      const uint16_t half = pool.type == Element::float16 ? float16_of_float(value) : bfloat16_of_float(value);
      if (pool.type == Element::float32)
        std::memcpy(cell(pool, page, position) + 4 * i, &value, 4);
      else
        std::memcpy(cell(pool, page, position) + 2 * i, &half, 2);
    }
  }
  std::vector<double> read(const PoolView& pool, int32_t page, int position) const {
    std::vector<double> head;
    for (int i = 0; i < config_.head_dim; ++i) head.push_back(element(cell(pool, page, position), pool.type, size_t(i)));
    return head;
  }
  /// softmax over keys first..position of K slot `slot`; entries before `first` are 0.
  std::vector<double> probabilities(const Step& step, const Segment& segment, int layer, int slot, int position, const double* q,
                                    int first) const {
    std::vector<double> p(size_t(position + 1), 0.0);
    double most = -INFINITY, sum = 0;
    for (int j = first; j <= position; ++j) {
      const auto k = read(step.pool, key_page(step, segment, layer, slot, j), j);
      for (int e = 0; e < config_.head_dim; ++e) p[size_t(j)] += q[e] * k[size_t(e)];
      p[size_t(j)] *= config_.attention_scale;
      most = std::max(most, p[size_t(j)]);
    }
    for (int j = first; j <= position; ++j) sum += p[size_t(j)] = std::exp(p[size_t(j)] - most);
    for (int j = first; j <= position; ++j) p[size_t(j)] /= sum;
    return p;
  }

  Config config_;
  std::vector<Drawn> drawn_;
};

}  // namespace chai
