// 16 float lanes in plain C++: for processors without the vector sets below, and the reference for them.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../element.h"

namespace {

struct Vec {
  static constexpr int tile_rows = 2, tile_columns = 2;
  float lane[16];

  template <class F>
  static Vec each(F f) {
    Vec v;
    for (int i = 0; i < 16; ++i) v.lane[i] = f(i);
    return v;
  }
  static Vec all(float x) {
    return each([x](int) { return x; });
  }
  static Vec load(const float* p) {
    Vec v;
    std::memcpy(v.lane, p, sizeof v.lane);
    return v;
  }
  static Vec load_float16(const uint16_t* p) {
    return each([p](int i) { return chai::float_of_float16(p[i]); });
  }
  static Vec load_bfloat16(const uint16_t* p) {
    return each([p](int i) { return chai::float_of_bfloat16(p[i]); });
  }
  void store(float* p) const { std::memcpy(p, lane, sizeof lane); }
  void store_float16(uint16_t* p) const {
    for (int i = 0; i < 16; ++i) p[i] = chai::float16_of_float(lane[i]);
  }
  friend Vec operator+(Vec a, Vec b) {
    return each([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  friend Vec operator-(Vec a, Vec b) {
    return each([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  friend Vec operator*(Vec a, Vec b) {
    return each([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  friend Vec operator/(Vec a, Vec b) {
    return each([&](int i) { return a.lane[i] / b.lane[i]; });
  }
  static Vec fma(Vec a, Vec b, Vec c) {  // two roundings: a fused one is very slow without hardware for it
    return each([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
  }
  static Vec max(Vec a, Vec b) {
    return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static Vec round(Vec a) {
    return each([&](int i) { return std::nearbyintf(a.lane[i]); });
  }
  /// a * 2^n for whole n in -126..127
  static Vec scale_by_power(Vec a, Vec n) {
    return each([&](int i) { return a.lane[i] * std::bit_cast<float>((int32_t(n.lane[i]) + 127) << 23); });
  }
  /// where(x < limit) 0 else value
  static Vec zero_below(Vec x, float limit, Vec value) {
    return each([&](int i) { return x.lane[i] < limit ? 0.0f : value.lane[i]; });
  }
  float sum() const {
    float s[8];
    for (int i = 0; i < 8; ++i) s[i] = lane[i] + lane[i + 8];
    for (int i = 0; i < 4; ++i) s[i] += s[i + 4];
    return (s[0] + s[2]) + (s[1] + s[3]);
  }
  float largest() const {
    float m = lane[0];
    for (int i = 1; i < 16; ++i) m = lane[i] > m ? lane[i] : m;
    return m;
  }
  static void sum4(const Vec* v, float* to) {
    for (int i = 0; i < 4; ++i) to[i] = v[i].sum();
  }
};

}  // namespace
