// Kernels for 64-bit Arm; see kernels.h.
#if defined(__aarch64__)
#include <arm_neon.h>

#include <cstddef>

#include "kernels.h"

namespace chai::cpu {
namespace {

struct Half {
  uint16_t bits;
};
struct BrainHalf {
  uint16_t bits;
};

/// Lanes 4 i .. 4 i + 3 in v[i].
struct V {
  static constexpr int tile_rows = 2, tile_columns = 2, vector_columns = 4, sum_columns = 2, direct_rows = 4;
  float32x4_t v[4];

  static V zero() { return set(0); }
  static V set(float value) {
    const float32x4_t all = vdupq_n_f32(value);
    return {{all, all, all, all}};
  }
  static V load(const float* p) { return {{vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}}; }
  template <class T>
  static uint16x4_t bits(const T* p) {
    return vld1_u16(reinterpret_cast<const uint16_t*>(p));
  }
  static float32x4_t widen(const Half* p) { return vcvt_f32_f16(vreinterpret_f16_u16(bits(p))); }
  static float32x4_t widen(const BrainHalf* p) { return vreinterpretq_f32_u32(vshll_n_u16(bits(p), 16)); }
  template <class T>
  static V load(const T* p) {
    return {{widen(p), widen(p + 4), widen(p + 8), widen(p + 12)}};
  }
  template <class T>
  static V load(const T* p, int count) {
    T part[16] = {};
    __builtin_memcpy(part, p, size_t(count) * sizeof(T));
    return load(static_cast<const T*>(part));
  }
  void store(float* p) const {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, v[i]);
  }
  void store(float* p, int count) const {
    float part[16];
    store(part);
    __builtin_memcpy(p, part, size_t(count) * sizeof(float));
  }
  void store(Half* p) const {
    for (int i = 0; i < 4; ++i) vst1_u16(reinterpret_cast<uint16_t*>(p + 4 * i), vreinterpret_u16_f16(vcvt_f16_f32(v[i])));
  }
  void fma(const V& a, const V& b) {
    for (int i = 0; i < 4; ++i) v[i] = vfmaq_f32(v[i], a.v[i], b.v[i]);
  }

  /// Lanes 0..3 of the tree's second level: l[i] + l[i + 8], then that + [i + 4].
  float32x4_t quarter() const { return vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3])); }
  float sum() const {
    const float32x4_t q = quarter();
    const float32x2_t pair = vadd_f32(vget_low_f32(q), vget_high_f32(q));
    return vget_lane_f32(pair, 0) + vget_lane_f32(pair, 1);
  }
  static void sum4(const V* sums, float* out) {
    for (int i = 0; i < 4; ++i) out[i] = sums[i].sum();
  }
};

}  // namespace
}  // namespace chai::cpu

#include "kernels_impl.h"
// after the vector type and the matrix kernels
#include "elementwise_impl.h"

namespace chai::cpu {
const Kernels neon_kernels = table("NEON");
}  // namespace chai::cpu
#endif
