// The CPU kernels of every instruction set of this machine against double-precision references, and against each other bit for bit.
#include <algorithm>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "cpu/kernels.h"

using namespace chai;
using namespace chai::cpu;

namespace {

constexpr Element types[] = {Element::float32, Element::float16, Element::bfloat16};

/// Numbers in an element type, followed by NaNs that nobody may read, and the same numbers as doubles.
struct Numbers {
  std::vector<uint16_t> narrow;
  std::vector<float> wide;
  std::vector<double> exact;
  Element type;

  Numbers(size_t count, Element type, std::mt19937& random) : type(type) {
    std::normal_distribution<float> normal(0, 1);
    for (size_t i = 0; i < count; ++i) {
      const float value = normal(random);
      narrow.push_back(type == Element::float16 ? float16_of_float(value) : bfloat16_of_float(value));
      wide.push_back(value);
      exact.push_back(type == Element::float32   ? value
                      : type == Element::float16 ? float_of_float16(narrow.back())
                                                 : float_of_bfloat16(narrow.back()));
    }
    for (int i = 0; i < 64; ++i) {
      narrow.push_back(0x7fff);
      wide.push_back(std::numeric_limits<float>::quiet_NaN());
    }
  }
  const void* data() const { return type == Element::float32 ? static_cast<const void*>(wide.data()) : narrow.data(); }
};

/// y [rows x columns] of x [rows x depth] and w [columns x depth]; entries past the columns keep the mark 77.
std::vector<float> product(const Kernels& kernels, const Numbers& x, const Numbers& w, int rows, int columns, int depth) {
  const int width = columns + 3;
  std::vector<float> y(size_t(rows) * width, 77.0f), scratch(size_t(product_scratch(depth)));
  std::vector<const float*> from;
  std::vector<float*> to;
  for (int m = 0; m < rows; ++m) {
    from.push_back(x.wide.data() + size_t(m) * depth);
    to.push_back(y.data() + size_t(m) * width);
  }
  kernels.product({from.data(), to.data(), rows, w.data(), w.type, depth, columns, depth}, scratch.data());
  for (int m = 0; m < rows; ++m)
    for (int n = columns; n < width; ++n) CHECK(y[size_t(m) * width + n] == 77.0f);
  std::vector<float> out;
  for (int m = 0; m < rows; ++m) out.insert(out.end(), y.begin() + m * width, y.begin() + m * width + columns);
  return out;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// All tables but the plain one: those with fused multiply-add.
std::vector<const Kernels*> fused_kernels() {
  auto all = usable_kernels();
  all.erase(all.begin());
  return all;
}

}  // namespace

TEST(cpu_product_agrees_with_double_precision) {
  std::mt19937 random(1);
  for (const Element type : types)
    for (const int rows : {1, 2, 5, 7, 13, 31})
      for (const int columns : {1, 3, 8, 37})
        for (const int depth : {1, 7, 16, 33, 100, 1030}) {
          const Numbers x(size_t(rows) * depth, Element::float32, random), w(size_t(columns) * depth, type, random);
          for (const Kernels* kernels : usable_kernels()) {
            const auto y = product(*kernels, x, w, rows, columns, depth);
            double worst = 0;
            for (int m = 0; m < rows; ++m)
              for (int n = 0; n < columns; ++n) {
                double sum = 0, size = 1e-30;
                for (int k = 0; k < depth; ++k) {
                  const double term = x.exact[size_t(m) * depth + k] * w.exact[size_t(n) * depth + k];
                  sum += term, size += std::abs(term);
                }
                const double error = std::abs(y[size_t(m) * columns + n] - sum) / size;
                worst = error <= worst ? worst : error;  // NaN counts as the worst
              }
            CHECK(worst < 1e-6);
          }
        }
}

TEST(cpu_product_of_a_row_has_the_same_bits_beside_any_rows) {
  std::mt19937 random(2);
  for (const Element type : types)
    for (const int depth : {8, 50, 700}) {
      const int rows = 40, columns = 45;
      const Numbers x(size_t(rows) * depth, Element::float32, random), w(size_t(columns) * depth, type, random);
      for (const Kernels* kernels : usable_kernels()) {
        const auto all = product(*kernels, x, w, rows, columns, depth);
        for (const int some : {1, 3, 6, 17}) {
          const auto part = product(*kernels, x, w, some, columns, depth);
          CHECK(same_bits(part, {all.begin(), all.begin() + some * columns}));
        }
        const auto fewer_columns = product(*kernels, x, w, 1, 11, depth);
        CHECK(same_bits(fewer_columns, {all.begin(), all.begin() + 11}));
      }
    }
}

TEST(cpu_products_of_all_fused_instruction_sets_have_the_same_bits) {
  std::mt19937 random(3);
  const auto fused = fused_kernels();
  for (const Element type : types)
    for (const int depth : {5, 64, 333}) {
      const Numbers x(size_t(9) * depth, Element::float32, random), w(size_t(21) * depth, type, random);
      for (const Kernels* kernels : fused) CHECK(same_bits(product(*kernels, x, w, 9, 21, depth), product(*fused[0], x, w, 9, 21, depth)));
    }
}

TEST(cpu_weighted_sum_agrees_with_double_precision_and_between_instruction_sets) {
  std::mt19937 random(4);
  for (const Element type : types)
    for (const int rows : {1, 2, 6, 11})
      for (const int width : {2, 16, 20, 64, 80, 128})
        for (const int count : {1, 5, 64}) {
          const Numbers p(size_t(rows) * count, Element::float32, random), v(size_t(count) * width, type, random);
          std::vector<std::vector<float>> results;
          for (const Kernels* kernels : usable_kernels()) {
            std::vector<float> out(size_t(rows) * width, 0.5f);
            kernels->weighted_sum({p.wide.data(), count, rows, count, v.data(), type, width, width, out.data(), width});
            double worst = 0;
            for (int m = 0; m < rows; ++m)
              for (int c = 0; c < width; ++c) {
                double sum = 0.5, size = 0.5;
                for (int j = 0; j < count; ++j) {
                  const double term = p.exact[size_t(m) * count + j] * v.exact[size_t(j) * width + c];
                  sum += term, size += std::abs(term);
                }
                const double error = std::abs(out[size_t(m) * width + c] - sum) / size;
                worst = error <= worst ? worst : error;
              }
            CHECK(worst < 1e-6);
            std::vector<float> alone(size_t(width), 0.5f);
            kernels->weighted_sum({p.wide.data(), count, 1, count, v.data(), type, width, width, alone.data(), width});
            CHECK(same_bits(alone, {out.begin(), out.begin() + width}));
            results.push_back(out);
          }
          for (size_t i = 2; i < results.size(); ++i) CHECK(same_bits(results[i], results[1]));
        }
}

TEST(cpu_softmax_agrees_with_double_precision_for_every_range) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 30);
  for (const int end : {1, 2, 15, 16, 17, 63, 64, 65, 255, 256})
    for (const int begin : {0, 1, 14, 16, 40, 200}) {
      if (begin >= end) continue;
      std::vector<float> scores(256, std::numeric_limits<float>::quiet_NaN());
      for (int j = begin; j < end; ++j) scores[size_t(j)] = normal(random);
      double greatest = -1e300, sum = 0;
      for (int j = begin; j < end; ++j) greatest = std::max(greatest, 0.25 * double(scores[size_t(j)]));
      for (int j = begin; j < end; ++j) sum += std::exp(0.25 * double(scores[size_t(j)]) - greatest);
      for (const Kernels* kernels : usable_kernels()) {
        auto s = scores;
        const SoftmaxState state = kernels->softmax(s.data(), begin, end, 0.25f);
        CHECK(std::abs(state.greatest - greatest) < 1e-6 * std::abs(greatest) + 1e-30);
        CHECK(std::abs(state.sum - sum) < 1e-6 * sum);
        for (int j = begin; j < end; ++j) CHECK(std::abs(s[size_t(j)] - std::exp(0.25 * double(scores[size_t(j)]) - greatest)) < 3e-7);
      }
    }
}

TEST(cpu_activations_agree_with_double_precision) {
  std::vector<float> x, up;
  for (int i = -4000; i <= 4000; ++i) x.push_back(float(i) * 0.005f), up.push_back(1 + float(i % 7));
  for (const float extreme : {-1e30f, -200.0f, -90.0f, 90.0f, 200.0f, 1e30f}) x.push_back(extreme), up.push_back(1);
  const auto expected = [](Activation activation, double v) {
    switch (activation) {
      case Activation::silu: return v / (1 + std::exp(-v));
      case Activation::relu: return v < 0 ? 0 : v;
      case Activation::gelu: return 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)));
      case Activation::gelu_tanh: return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
    }
    return 0.0;
  };
  for (const Kernels* kernels : usable_kernels())
    for (const auto activation : {Activation::silu, Activation::relu, Activation::gelu, Activation::gelu_tanh})
      for (const bool gated : {false, true}) {
        auto y = x;
        kernels->activate(activation, y.data(), gated ? up.data() : nullptr, int(y.size()));
        for (size_t i = 0; i < x.size(); ++i) {
          const double want = expected(activation, double(x[i])) * (gated ? double(up[i]) : 1);
          CHECK(std::abs(double(y[i]) - want) <= 1e-6 * std::abs(want) + 2e-6);
        }
      }
}

TEST(cpu_norms_agree_with_double_precision) {
  std::mt19937 random(6);
  for (const int count : {1, 15, 48, 100, 2049}) {
    const Numbers x(size_t(count), Element::float32, random), w(size_t(count), Element::float32, random),
        b(size_t(count), Element::float32, random);
    for (const auto kind : {NormKind::rms, NormKind::layer})
      for (const Kernels* kernels : usable_kernels()) {
        double mean = 0, square = 0;
        for (int i = 0; i < count; ++i) mean += kind == NormKind::layer ? x.exact[size_t(i)] / count : 0;
        for (int i = 0; i < count; ++i) square += (x.exact[size_t(i)] - mean) * (x.exact[size_t(i)] - mean) / count;
        std::vector<float> y(x.wide.begin(), x.wide.begin() + count);
        kernels->norm(kind, y.data(), w.wide.data(), kind == NormKind::layer ? b.wide.data() : nullptr, 1e-5f, y.data(), count);
        for (int i = 0; i < count; ++i) {
          const double bias = kind == NormKind::layer ? b.exact[size_t(i)] : 0;
          const double want = (x.exact[size_t(i)] - mean) / std::sqrt(square + 1e-5) * w.exact[size_t(i)] + bias;
          CHECK(std::abs(y[size_t(i)] - want) < 3e-6 * (1 + std::abs(want)));
        }
      }
  }
}

TEST(cpu_conversions_are_exact_and_round_to_nearest_even) {
  std::vector<uint16_t> all(1 << 16);
  for (size_t i = 0; i < all.size(); ++i) all[i] = uint16_t(i);
  std::vector<float> values;
  std::mt19937 random(7);
  for (int i = 0; i < 100001; ++i) {
    const float value = std::bit_cast<float>(uint32_t(random()));
    values.push_back(std::isnan(value) ? 1.0f : value);
    values.push_back(std::ldexp(float(random()), -int(random() % 64)));  // many near and below the smallest half
  }
  for (const Kernels* kernels : usable_kernels())
    for (const Element type : {Element::float16, Element::bfloat16}) {
      std::vector<float> wide(all.size());
      kernels->widen(all.data(), type, wide.data(), int(wide.size()));
      std::vector<uint16_t> narrow(values.size());
      kernels->narrow(values.data(), type, narrow.data(), int(values.size()));
      for (size_t i = 0; i < all.size(); ++i) {
        const float want = type == Element::float16 ? float_of_float16(all[i]) : float_of_bfloat16(all[i]);
        CHECK(std::isnan(want) ? std::isnan(wide[i]) : wide[i] == want);
      }
      for (size_t i = 0; i < values.size(); ++i)
        CHECK(narrow[i] == (type == Element::float16 ? float16_of_float(values[i]) : bfloat16_of_float(values[i])));
    }
}
