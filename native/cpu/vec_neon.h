// 16 float lanes as four NEON registers.
#pragma once
#include <arm_neon.h>

#include <cstdint>

namespace {

struct Vec {
  static constexpr int tile_rows = 3, tile_columns = 2;  // 24 of 32 registers accumulate
  float32x4_t q[4];

  template <class F>
  static Vec each(F f) {
    return {{f(0), f(1), f(2), f(3)}};
  }
  static Vec all(float x) {
    return each([x](int) { return vdupq_n_f32(x); });
  }
  static Vec load(const float* p) {
    return each([p](int i) { return vld1q_f32(p + 4 * i); });
  }
  static Vec load_float16(const uint16_t* p) {
    return each([p](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
  }
  static Vec load_bfloat16(const uint16_t* p) {
    return each([p](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)); });
  }
  void store(float* p) const {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, q[i]);
  }
  void store_float16(uint16_t* p) const {
    for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(q[i])));
  }
  friend Vec operator+(Vec a, Vec b) {
    return each([&](int i) { return vaddq_f32(a.q[i], b.q[i]); });
  }
  friend Vec operator-(Vec a, Vec b) {
    return each([&](int i) { return vsubq_f32(a.q[i], b.q[i]); });
  }
  friend Vec operator*(Vec a, Vec b) {
    return each([&](int i) { return vmulq_f32(a.q[i], b.q[i]); });
  }
  friend Vec operator/(Vec a, Vec b) {
    return each([&](int i) { return vdivq_f32(a.q[i], b.q[i]); });
  }
  static Vec fma(Vec a, Vec b, Vec c) {
    return each([&](int i) { return vfmaq_f32(c.q[i], a.q[i], b.q[i]); });
  }
  static Vec max(Vec a, Vec b) {
    return each([&](int i) { return vmaxq_f32(a.q[i], b.q[i]); });
  }
  static Vec round(Vec a) {
    return each([&](int i) { return vrndnq_f32(a.q[i]); });
  }
  static Vec scale_by_power(Vec a, Vec n) {
    return each([&](int i) {
      const int32x4_t power = vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n.q[i]), vdupq_n_s32(127)), 23);
      return vmulq_f32(a.q[i], vreinterpretq_f32_s32(power));
    });
  }
  static Vec zero_below(Vec x, float limit, Vec value) {
    return each([&](int i) {
      const uint32x4_t below = vcltq_f32(x.q[i], vdupq_n_f32(limit));
      return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(value.q[i]), below));
    });
  }
  float sum() const {
    const float32x4_t four = vaddq_f32(vaddq_f32(q[0], q[2]), vaddq_f32(q[1], q[3]));
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
  }
  float largest() const { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(q[0], q[2]), vmaxq_f32(q[1], q[3]))); }
  static void sum4(const Vec* v, float* to) {
    for (int i = 0; i < 4; ++i) to[i] = v[i].sum();
  }
};

}  // namespace
