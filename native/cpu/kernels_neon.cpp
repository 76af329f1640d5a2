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

/// Lanes 4 i .. 4 i + 3 in part[i].
struct V {
  using Part = float32x4_t;
  static constexpr int parts = 4, tile_rows = 3, tile_columns = 2, vector_columns = 4, sum_columns = 2;
  static constexpr bool slow_conversion = false;
  Part part[parts];

  template <class T>
  static uint16x4_t bits(const T* p) {
    return vld1_u16(reinterpret_cast<const uint16_t*>(p));
  }
  static Part load_part(const float* p) { return vld1q_f32(p); }
  static Part load_part(const Half* p) { return vcvt_f32_f16(vreinterpret_f16_u16(bits(p))); }
  static Part load_part(const BrainHalf* p) { return vreinterpretq_f32_u32(vshll_n_u16(bits(p), 16)); }
  static Part set_part(float value) { return vdupq_n_f32(value); }
  static Part keep(Part value) { return value; }
  static void fma(Part& sum, Part a, Part b) { sum = vfmaq_f32(sum, a, b); }

  static V zero() { return set(0); }
  static V set(float value) { return {{set_part(value), set_part(value), set_part(value), set_part(value)}}; }
  template <class T>
  static V load(const T* p) {
    return {{load_part(p), load_part(p + 4), load_part(p + 8), load_part(p + 12)}};
  }
  template <class T>
  static V load(const T* p, int count) {
    T some[lanes] = {};
    __builtin_memcpy(some, p, size_t(count) * sizeof(T));
    return load(static_cast<const T*>(some));
  }
  void store(float* p) const {
    for (int h = 0; h < parts; ++h) vst1q_f32(p + 4 * h, part[h]);
  }
  void store(float* p, int count) const {
    float all[lanes];
    store(all);
    __builtin_memcpy(p, all, size_t(count) * sizeof(float));
  }
  void store(Half* p) const {
    for (int h = 0; h < parts; ++h) vst1_u16(reinterpret_cast<uint16_t*>(p + 4 * h), vreinterpret_u16_f16(vcvt_f16_f32(part[h])));
  }
  void fma(const V& a, const V& b) {
    for (int h = 0; h < parts; ++h) fma(part[h], a.part[h], b.part[h]);
  }

  /// Lanes 0..3 of the tree's second level: l[i] + l[i + 8], then that + [i + 4].
  Part quarter() const { return vaddq_f32(vaddq_f32(part[0], part[2]), vaddq_f32(part[1], part[3])); }
  float sum() const {
    const Part q = quarter();
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
