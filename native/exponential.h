// The exponential of all float32 arithmetic on the CPU. In: a float. Out: the same bits vectorised or not, on every instruction set.
#pragma once
#include <cstdint>

namespace chai {
namespace {  // compiled for several instruction sets, which the linker must not mix up

/// condition ? a : b in bit operations, which compilers vectorise where they would leave a choice between floats as a branch.
[[gnu::always_inline]] inline float choose(bool condition, float a, float b) {
  const uint32_t mask = 0u - uint32_t(condition);
  return __builtin_bit_cast(float, (__builtin_bit_cast(uint32_t, a) & mask) | (__builtin_bit_cast(uint32_t, b) & ~mask));
}

/// e^x to about one unit in the last place; 0 below the normal range, about 2.4e38 above it; NaN stays NaN; exact at 0.
[[gnu::always_inline]] inline float exp_of(float x) {
  const float capped = choose(x > 88.37f, 88.37f, x);
  const float clamped = choose(capped < -87.3f, -87.3f, capped);
  const float shifted = clamped * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the low bits hold round(x / ln 2)
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;  // ln 2 in two parts, the first product is exact
  float p = 0x1.9f081p-13f;                                           // (e^r - 1 - r) / r^2 on |r| <= ln 2 / 2, weighted least maximum
  p = p * r + 0x1.6d8dbp-10f;
  p = p * r + 0x1.111272p-7f;
  p = p * r + 0x1.55548ep-5f;
  p = p * r + 0x1.555554p-3f;
  p = p * r + 0.5f;
  p = p * (r * r) + r + 1.0f;
  const uint32_t power = (__builtin_bit_cast(uint32_t, shifted) - 0x4b400000u) << 23;
  const float result = __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, p) + power);
  const float kept = result + (clamped - clamped);  // NaN stays NaN
  return choose(x < -87.3f, 0.0f, kept);
}

}  // namespace
}  // namespace chai
