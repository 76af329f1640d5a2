// Inner products of warm-up features; see head_gram.h.
#include "head_gram.h"

#include <algorithm>
#include <cmath>

namespace chai {
namespace {

/// Four sums side by side: one alone would wait for each addition. The order is fixed, so results are the same everywhere.
double dot(const float* a, const float* b, int count) {
  constexpr int lanes = 4;
  double sum[lanes] = {};
  int i = 0;
  for (; i + lanes <= count; i += lanes)
    for (int lane = 0; lane < lanes; ++lane) sum[lane] += double(a[i + lane]) * double(b[i + lane]);
  for (; i < count; ++i) sum[0] += double(a[i]) * double(b[i]);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

}  // namespace

std::vector<double> head_gram(std::vector<float> features, const FeatureShape& shape, std::span<const int> rows) {
  const size_t heads = size_t(shape.heads), square = heads * heads, length = size_t(shape.length);
  for (float& value : features)
    if (!std::isfinite(value)) value = 0;
  std::vector<double> result(rows.size() * size_t(shape.layers) * square), gram(square);
  for (int layer = 0; layer < shape.layers; ++layer) {
    const float* of_layer = features.data() + size_t(layer) * heads * length;
    std::fill(gram.begin(), gram.end(), 0.0);
    int row = 0;
    size_t at = 0;
    for (size_t r = 0; r < rows.size(); ++r) {
      for (; row < rows[r]; ++row) {  // row by row: one row of all heads stays in the nearest cache
        const int entries = shape.start + row + 1;
        for (size_t a = 0; a < heads; ++a)
          for (size_t b = a; b < heads; ++b) gram[a * heads + b] += dot(of_layer + a * length + at, of_layer + b * length + at, entries);
        at += size_t(entries);
      }
      double* out = result.data() + (r * size_t(shape.layers) + size_t(layer)) * square;
      for (size_t a = 0; a < heads; ++a)
        for (size_t b = a; b < heads; ++b) out[a * heads + b] = out[b * heads + a] = gram[a * heads + b];
    }
  }
  return result;
}

}  // namespace chai
