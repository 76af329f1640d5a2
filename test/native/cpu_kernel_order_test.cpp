// The order of additions that kernels.h promises, written out with scalar fused multiply-adds: every fused instruction set must give these
// very bits. Comparing the instruction sets of one machine with each other says nothing on a machine that has only one (64-bit Arm).
#include <cmath>
#include <cstring>
#include <vector>

#include "check.h"
#include "cpu/kernels.h"

using namespace chai;
using namespace chai::cpu;

namespace {

/// Numbers without a pattern in (-1, 1), the same on every machine; `type` rounds them.
std::vector<float> numbers(size_t count, uint32_t seed, Element type = Element::float32) {
  std::vector<float> values;
  for (size_t i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    const float value = float(int32_t(seed)) * 0x1p-31f;
    values.push_back(type == Element::float16    ? float_of_float16(float16_of_float(value))
                     : type == Element::bfloat16 ? float_of_bfloat16(bfloat16_of_float(value))
                                                 : value);
  }
  return values;
}

/// The same numbers in the element type.
std::vector<uint16_t> narrowed(const std::vector<float>& values, Element type) {
  std::vector<uint16_t> bits;
  for (const float value : values) bits.push_back(type == Element::float16 ? float16_of_float(value) : bfloat16_of_float(value));
  return bits;
}

const void* data_of(const std::vector<float>& wide, const std::vector<uint16_t>& narrow, Element type) {
  return type == Element::float32 ? static_cast<const void*>(wide.data()) : narrow.data();
}

/// 16 lanes (lane = k mod 16, ascending k), then the tree: lanes 8 apart, 4 apart, 2 apart, neighbours.
float ordered_product(const float* x, const float* w, int depth) {
  float lane[16] = {};
  for (int k = 0; k < depth; ++k) lane[k % 16] = std::fma(x[k], w[k], lane[k % 16]);
  for (int apart = 8; apart > 0; apart /= 2)
    for (int l = 0; l < apart; ++l) lane[l] += lane[l + apart];
  return lane[0];
}

bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

std::vector<const Kernels*> fused_kernels() {
  auto all = usable_kernels();
  all.erase(all.begin());  // the plain table rounds twice
  return all;
}

constexpr Element types[] = {Element::float32, Element::float16, Element::bfloat16};

}  // namespace

TEST(cpu_product_adds_in_the_promised_order) {
  for (const Element type : types)
    for (const int depth : {1, 15, 16, 50, 333, 1024}) {
      constexpr int rows = 7, columns = 11;
      const auto x = numbers(size_t(rows) * depth, 1), w = numbers(size_t(columns) * depth, 2, type);
      const auto narrow = narrowed(w, type);
      for (const Kernels* kernels : fused_kernels()) {
        std::vector<float> y(rows * columns), scratch(size_t(product_scratch(depth)));
        std::vector<const float*> from;
        std::vector<float*> to;
        for (int m = 0; m < rows; ++m) from.push_back(x.data() + m * depth), to.push_back(y.data() + m * columns);
        kernels->product({from.data(), to.data(), rows, data_of(w, narrow, type), type, depth, columns, depth}, scratch.data());
        for (int m = 0; m < rows; ++m)
          for (int n = 0; n < columns; ++n) CHECK(same_bits(y[m * columns + n], ordered_product(&x[m * depth], &w[n * depth], depth)));
      }
    }
}

TEST(cpu_weighted_sum_adds_in_the_promised_order) {
  for (const Element type : types)
    for (const int width : {8, 16, 40, 64, 100}) {
      constexpr int rows = 5, count = 37;
      const auto p = numbers(rows * count, 3), v = numbers(size_t(count) * width, 4, type), before = numbers(size_t(rows) * width, 5);
      const auto narrow = narrowed(v, type);
      for (const Kernels* kernels : fused_kernels()) {
        auto out = before;
        kernels->weighted_sum({p.data(), count, rows, count, data_of(v, narrow, type), type, width, width, out.data(), width});
        for (int m = 0; m < rows; ++m)
          for (int c = 0; c < width; ++c) {
            float want = before[size_t(m * width + c)];
            for (int j = 0; j < count; ++j) want = std::fma(p[size_t(m * count + j)], v[size_t(j * width + c)], want);
            CHECK(same_bits(out[size_t(m * width + c)], want));
          }
      }
    }
}
