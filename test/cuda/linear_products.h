// Checks of single operations of cuda/linear.h against double precision. In: a config, a type, rows, how the launches are planned. Out:
// failed CHECKs where a value, a tail of a row or a row beyond the step is not as expected.
#pragma once
#include "linear_fixture.h"

namespace chai::cuda {

inline double activated(Activation activation, double x) {
  switch (activation) {
    case Activation::relu: return x < 0 ? 0 : x;
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::gelu: return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::gelu_tanh: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
  }
  return 0;
}

/// A step of decode rows, one a sequence; without sequences' tables, which these operations do not read.
inline StepLaunch plain_step(Fixture& f, Ragged& ragged, int rows, bool warm_up = false, int bucket = 0) {
  for (int i = 0; i < rows; ++i) ragged.add_segment(0, 5 + i, 1, false);
  StepLaunch step = ragged.launch(f, bucket);
  step.warm_up = warm_up;
  return step;
}
inline Ragged one_sequence(const Config& c) {
  Ragged ragged(c, Element::float16, 1, 64);
  ragged.add_sequence(HeadKind::dense, false);
  return ragged;
}

struct Layer {
  LayerWeights weights;
  Tensor norm, norm_bias, attention_output, output_bias, gate, gate_bias, up, up_bias, down, down_bias;
  bool biased;

  Layer(Fixture& f, bool with_bias) : biased(with_bias) {
    const Config& c = f.config;
    norm = f.tensor(1, c.hidden, 0.2f, 1), norm_bias = f.tensor(1, c.hidden, 0.2f);
    weights.attention_norm = weights.feed_forward_norm = {norm.device, biased ? norm_bias.device : nullptr};
    weights.attention_output = linear(f, attention_output, output_bias, c.hidden, c.query_width());
    if (c.gated) weights.gate = linear(f, gate, gate_bias, c.intermediate, c.hidden);
    weights.up = linear(f, up, up_bias, c.intermediate, c.hidden);
    weights.down = linear(f, down, down_bias, c.hidden, c.intermediate);
  }
  chai::Linear linear(Fixture& f, Tensor& weight, Tensor& bias, int rows, int columns) const {
    weight = f.tensor(rows, columns, 0.3f), bias = f.tensor(1, rows, 0.3f);
    return {weight.device, biased ? bias.device : nullptr};
  }
  const Tensor* some(const Tensor& bias) const { return biased ? &bias : nullptr; }
};

/// One row of x after a block added `sums`, normalised where the norm comes after. Bounds grow by the norm's own factor.
inline std::vector<Expected> added(const Fixture& f, const Layer& layer, const float* x, const std::vector<Expected>& sums) {
  std::vector<float> row;
  double most = 0, size = 0;
  for (size_t i = 0; i < sums.size(); ++i) {
    row.push_back(float(x[i] + sums[i].value));
    most = std::max(most, sums[i].bound);
    size += row[i] * row[i] / double(sums.size());
  }
  std::vector<Expected> out;
  if (f.config.norm_placement == NormPlacement::before) {
    for (size_t i = 0; i < sums.size(); ++i) out.push_back({x[i] + sums[i].value, sums[i].bound + 1e-6});
    return out;
  }
  for (const double value : f.normed(row.data(), f.config.hidden, &layer.norm, layer.some(layer.norm_bias)))
    out.push_back({value, 6 * most / std::sqrt(size) + 1e-5});
  return out;
}

/// Rows < `rows` as expected, tails zero, rows beyond untouched.
inline void check_rows(const std::vector<float>& got, const std::vector<float>& before, int rows, int width,
                       const std::function<std::vector<Expected>(int)>& expected) {
  const size_t pitch = size_t(pitch_of(width));
  bool right = true, tails = true;
  for (size_t r = 0; r < got.size() / pitch; ++r) {
    const std::vector<Expected> want = int(r) < rows ? expected(int(r)) : std::vector<Expected>{};
    for (size_t i = 0; i < pitch; ++i) {
      const float value = got[r * pitch + i];
      if (i < want.size())
        right &= close(value, want[i]);
      else
        tails &= std::memcmp(&value, &before[r * pitch + i], sizeof value) == 0;
    }
  }
  CHECK(right);
  CHECK(tails);
}

inline void check_output(const Config& c, Element type, int rows, bool biased, bool warm_up = false, int bucket = 0, Planned planned = {}) {
  Fixture f(c, type, std::max(rows, bucket), planned);
  if (biased) f.widen_blocks();
  const Layer layer(f, biased);
  Ragged ragged = one_sequence(c);
  const StepLaunch step = plain_step(f, ragged, rows, warm_up, bucket);
  const std::vector<float> before = f.rows(std::max(rows, bucket), c.hidden);
  const std::vector<uint16_t> mixed = f.narrow_rows(f.rows(std::max(rows, bucket), c.query_width()));
  const Buffer<float> x(before);
  const Buffer<uint16_t> from(mixed);
  f.linear.output(step, layer.weights, from.get(), x.get());
  check_rows(x.read(), before, rows, c.hidden, [&](int r) {
    std::vector<double> row;
    for (int i = 0; i < c.query_width(); ++i) row.push_back(widened(mixed[size_t(r * pitch_of(c.query_width()) + i)], type));
    std::vector<Expected> sums;
    for (int n = 0; n < c.hidden; ++n) {
      sums.push_back(f.product(layer.attention_output, layer.some(layer.output_bias), n, row));
      sums.back().bound = 1e-5 + 1e-6 * sums.back().bound / relative_step(type);  // the inputs are exact here
    }
    return added(f, layer, before.data() + r * pitch_of(c.hidden), sums);
  });
}

inline std::vector<Expected> expected_inner(const Fixture& f, const Layer& layer, const std::vector<double>& row) {
  const Config& c = f.config;
  std::vector<Expected> out;
  for (int n = 0; n < c.intermediate; ++n) {
    Expected up = f.rounded_by_library(f.product(layer.up, layer.some(layer.up_bias), n, row));
    if (c.gated) {
      const Expected gate = f.rounded_by_library(f.product(layer.gate, layer.some(layer.gate_bias), n, row));
      const double value = activated(c.activation, gate.value);  // no activation is steeper than 1.13
      up = {value * up.value, 1.13 * gate.bound * (std::abs(up.value) + up.bound) + std::abs(value) * up.bound};
    } else {
      up = {activated(c.activation, up.value), 1.13 * up.bound};
    }
    up.bound += relative_step(f.type) * std::abs(up.value);
    out.push_back(up);
  }
  return out;
}

inline void check_feed_forward(const Config& c, Element type, int rows, bool biased, bool warm_up = false, int bucket = 0,
                               Planned planned = {}) {
  Fixture f(c, type, std::max(rows, bucket), planned);
  if (biased) f.widen_blocks();
  const Layer layer(f, biased);
  Ragged ragged = one_sequence(c);
  const StepLaunch step = plain_step(f, ragged, rows, warm_up, bucket);
  const std::vector<float> before = f.rows(std::max(rows, bucket), c.hidden);
  const Buffer<float> x(before);
  f.linear.feed_forward(step, layer.weights, x.get());
  check_rows(x.read(), before, rows, c.hidden, [&](int r) {
    const float* from = before.data() + r * pitch_of(c.hidden);
    const bool normed = c.norm_placement == NormPlacement::before;
    const auto inner =
        expected_inner(f, layer, f.normed(from, c.hidden, normed ? &layer.norm : nullptr, normed ? layer.some(layer.norm_bias) : nullptr));
    std::vector<Expected> sums;
    for (int n = 0; n < c.hidden; ++n) {
      Expected sum;
      for (int k = 0; k < c.intermediate; ++k) {
        sum.value += layer.down.at(n, k) * inner[size_t(k)].value;
        const double bound = layer.down.at(n, k) * inner[size_t(k)].bound;
        sum.bound += bound * bound;  // independent errors
      }
      sum.bound = 4 * std::sqrt(sum.bound) + 1e-5;
      if (biased) sum.value += layer.down_bias.at(0, n);
      sums.push_back(sum);
    }
    return added(f, layer, from, sums);
  });
}

inline void check_logits(const Config& c, Element type, int rows, const std::vector<int32_t>& logit_rows, bool normed, int bucket = 0,
                         Planned planned = {}) {
  Fixture f(c, type, std::max(rows, bucket), planned);
  ModelWeights weights;
  const Tensor norm = f.tensor(1, c.hidden, 0.2f, 1), output = f.tensor(c.vocabulary, c.embedding, 0.3f);
  const Tensor projection = f.tensor(c.embedding, c.hidden, 0.3f);
  if (normed) weights.final_norm.weight = norm.device;
  weights.output = output.device;
  if (c.embedding != c.hidden) weights.output_projection = projection.device;
  Ragged ragged = one_sequence(c);
  ragged.step.logit_rows = logit_rows;
  const StepLaunch step = plain_step(f, ragged, rows, false, bucket);
  const std::vector<float> rows_of_x = f.rows(rows, c.hidden);
  const Buffer<float> x(rows_of_x), logits(size_t(c.vocabulary) * size_t(std::max<int>(bucket, int(logit_rows.size()))));
  f.linear.logits(step, weights, x.get(), logits.get());
  const std::vector<float> got = logits.read();
  bool right = true, untouched = true;
  for (size_t i = 0; i < logit_rows.size(); ++i) {
    std::vector<double> row = f.normed(rows_of_x.data() + logit_rows[i] * pitch_of(c.hidden), c.hidden, normed ? &norm : nullptr, nullptr);
    double inherited = 0;
    if (c.embedding != c.hidden) {
      std::vector<double> narrow;
      for (int n = 0; n < c.embedding; ++n) {
        const Expected value = f.product(projection, nullptr, n, row);
        narrow.push_back(value.value);
        inherited = std::max(inherited, value.bound);
      }
      row = narrow;
    }
    for (int n = 0; n < c.vocabulary; ++n) {
      Expected want = f.product(output, nullptr, n, row);
      double square = 0;
      for (int k = 0; k < c.embedding; ++k) square += output.at(n, k) * output.at(n, k);
      want.bound += 3 * inherited * std::sqrt(square);
      right &= close(got[i * size_t(c.vocabulary) + size_t(n)], want);
    }
  }
  for (size_t i = logit_rows.size() * size_t(c.vocabulary); i < got.size(); ++i) untouched &= std::isnan(got[i]);
  CHECK(right);
  CHECK(untouched);
}

inline void check_embed(Config c, Element type, int rows, bool positions, int bucket = 0, Planned planned = {}) {
  c.position_offset = 2;
  Fixture f(c, type, std::max(rows, bucket), planned);
  ModelWeights weights;
  const Tensor tokens = f.tensor(c.vocabulary, c.embedding, 0.3f), places = f.tensor(rows + 8, c.hidden, 0.3f);
  const Tensor projection = f.tensor(c.hidden, c.embedding, 0.3f);
  weights.token_embedding = tokens.device;
  if (positions) weights.position_embedding = places.device;
  if (c.embedding != c.hidden) weights.embedding_projection = projection.device;
  Ragged ragged = one_sequence(c);
  const StepLaunch step = plain_step(f, ragged, rows, false, bucket);
  const std::vector<float> before(size_t(std::max(rows, bucket)) * size_t(pitch_of(c.hidden)), -7.0f);
  const Buffer<float> x(before);
  f.linear.embed(step, weights, x.get());
  check_rows(x.read(), before, rows, c.hidden, [&](int r) {
    const int token = ragged.step.tokens[size_t(r)], position = ragged.step.positions[size_t(r)];
    std::vector<double> row;
    for (int k = 0; k < c.embedding; ++k) row.push_back(tokens.at(token, k));
    std::vector<Expected> out;
    for (int i = 0; i < c.hidden; ++i) {
      Expected want = c.embedding != c.hidden ? f.product(projection, nullptr, i, row) : Expected{row[size_t(i)], 0};
      want.bound = 1e-5;  // the inputs are exact
      if (positions) want.value += places.at(position + 2, i);
      out.push_back(want);
    }
    return out;
  });
}

inline Config with_hidden(Config c, int hidden, int intermediate) {
  c.hidden = c.embedding = hidden, c.intermediate = intermediate;
  return c;
}
inline Config opt_config(NormPlacement placement, Activation activation) {
  Config c = odd_config(4, 4, 10, false);
  c.norm = NormKind::layer, c.norm_placement = placement, c.gated = false, c.activation = activation;
  return c;
}

}  // namespace chai::cuda
