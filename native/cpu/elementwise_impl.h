// The kernels that work on one row at a time: softmax, norms, activations, rotation, conversions. Included after kernels_impl.h by each
// kernels_*.cpp. The element formulas are plain float arithmetic without contraction, so they give the same bits vectorised or not, on
// every instruction set; only sums use `V`.
#pragma once
#include <cmath>

#include "../exponential.h"
#include "kernels.h"

namespace chai::cpu {
namespace {

float sum_of(const float* x, int count) {
  V sums = V::zero();
  const V one = V::set(1.0f);
  int i = 0;
  for (; i + lanes <= count; i += lanes) sums.fma(V::load(x + i), one);
  if (i < count) sums.fma(V::load(x + i, count - i), one);
  return sums.sum();
}

float sum_of_squares(const float* x, int count) {
  V sums = V::zero();
  int i = 0;
  for (; i + lanes <= count; i += lanes) {
    const V v = V::load(x + i);
    sums.fma(v, v);
  }
  if (i < count) {
    const V v = V::load(x + i, count - i);
    sums.fma(v, v);
  }
  return sums.sum();
}

/// The greatest of `scale` times each of s, which are multiplied on the way; NaN is passed over.
float scale_and_find_greatest(float* s, int count, float scale) {
  constexpr int width = lanes / V::parts;
  using Vector [[gnu::vector_size(width * sizeof(float))]] = float;  // an array of maxima would be left to scalar code
  Vector greatest = Vector{} - __builtin_inff();
  int j = 0;
  for (; j + width <= count; j += width) {
    Vector v;
    __builtin_memcpy(&v, s + j, sizeof v);
    v *= scale;
    __builtin_memcpy(s + j, &v, sizeof v);
    greatest = v > greatest ? v : greatest;
  }
  float top = greatest[0];
  for (int l = 1; l < width; ++l) top = greatest[l] > top ? greatest[l] : top;
  for (; j < count; ++j) {
    s[j] *= scale;
    top = s[j] > top ? s[j] : top;
  }
  return top;
}

/// Lanes count from index 0, not from `begin`: the order of additions follows the keys' positions.
SoftmaxState softmax(float* s, int begin, int end, float scale) {
  const float top = scale_and_find_greatest(s + begin, end - begin, scale);
  for (int i = begin; i < end; ++i) s[i] = exp_of(s[i] - top);
  const int from = begin / lanes * lanes;
  for (int i = from; i < begin; ++i) s[i] = 0;  // scores of keys outside the window
  return {top, sum_of(s + from, end - from)};
}

void blend(float* a, float wa, const float* b, float wb, int count) {
  for (int i = 0; i < count; ++i) a[i] = a[i] * wa + b[i] * wb;
}

void divide(const float* x, float divisor, float* y, int count) {
  for (int i = 0; i < count; ++i) y[i] = x[i] / divisor;
}

void add(float* x, const float* y, const float* bias, int count) {
  if (bias)
    for (int i = 0; i < count; ++i) x[i] += y[i] + bias[i];
  else
    for (int i = 0; i < count; ++i) x[i] += y[i];
}

void norm(NormKind kind, const float* x, const float* weight, const float* bias, float epsilon, float* y, int count) {
  if (kind == NormKind::rms) {
    const float factor = 1.0f / __builtin_sqrtf(sum_of_squares(x, count) / float(count) + epsilon);
    for (int i = 0; i < count; ++i) y[i] = x[i] * factor;
  } else {
    const float mean = sum_of(x, count) / float(count);
    for (int i = 0; i < count; ++i) y[i] = x[i] - mean;
    const float factor = 1.0f / __builtin_sqrtf(sum_of_squares(y, count) / float(count) + epsilon);
    for (int i = 0; i < count; ++i) y[i] *= factor;
  }
  if (weight)
    for (int i = 0; i < count; ++i) y[i] *= weight[i];
  if (bias)
    for (int i = 0; i < count; ++i) y[i] += bias[i];
}

void activate(Activation activation, float* x, const float* up, int count) {
  switch (activation) {
    case Activation::silu:
      for (int i = 0; i < count; ++i) x[i] = x[i] / (1.0f + exp_of(-x[i]));
      break;
    case Activation::relu:
      for (int i = 0; i < count; ++i) x[i] = choose(x[i] < 0, 0, x[i]);
      break;
    case Activation::gelu:
      for (int i = 0; i < count; ++i) x[i] = 0.5f * x[i] * (1.0f + ::erff(x[i] * 0.70710678f));
      break;
    case Activation::gelu_tanh:  // (1 + tanh u) / 2 = 1 / (1 + e^-2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
      for (int i = 0; i < count; ++i) {
        const float twice = 1.59576912f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        x[i] = x[i] / (1.0f + exp_of(-twice));
      }
      break;
  }
  if (up)
    for (int i = 0; i < count; ++i) x[i] *= up[i];
}

void rotate(float* x, const float* cosine, const float* sine, int dim) {
  const int half = dim / 2;
  float* second = x + half;
  for (int i = 0; i < half; ++i) {
    const float a = x[i], b = second[i];
    x[i] = a * cosine[i] - b * sine[i];
    second[i] = b * cosine[i] + a * sine[i];
  }
}

void widen(const void* from, Element type, float* to, int count) {
  switch (type) {
    case Element::float32: __builtin_memcpy(to, from, size_t(count) * sizeof(float)); break;
    case Element::float16: widen_row(static_cast<const Half*>(from), to, count); break;
    case Element::bfloat16: widen_row(static_cast<const BrainHalf*>(from), to, count); break;
  }
}

void narrow_to_half(const float* from, Half* to, int count) {
  int i = 0;
  for (; i + lanes <= count; i += lanes) V::load(from + i).store(to + i);
  if (i == count) return;
  Half last[lanes];
  V::load(from + i, count - i).store(last);
  __builtin_memcpy(to + i, last, size_t(count - i) * sizeof(Half));
}

void narrow(const float* from, Element type, void* to, int count) {
  switch (type) {
    case Element::float32: __builtin_memcpy(to, from, size_t(count) * sizeof(float)); break;
    case Element::float16: narrow_to_half(from, static_cast<Half*>(to), count); break;
    case Element::bfloat16: {
      auto* out = static_cast<uint16_t*>(to);
      for (int i = 0; i < count; ++i) {
        const uint32_t bits = __builtin_bit_cast(uint32_t, from[i]);
        const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16, quiet = (bits >> 16) | 0x40;
        out[i] = uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
      }
      break;
    }
  }
}

constexpr Kernels table(const char* name) {
  return {name, V::tile_rows, product, weighted_sum, softmax, blend, divide, add, norm, activate, rotate, widen, narrow};
}

}  // namespace
}  // namespace chai::cpu
