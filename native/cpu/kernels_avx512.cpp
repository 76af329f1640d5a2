// Kernels for x86-64 with AVX-512 (F, BW, VL, DQ), FMA and F16C; see kernels.h.
#if defined(__x86_64__)
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wuninitialized"  // false alarms inside GCC 12's own header (its bug 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

#include "kernels.h"

namespace chai::cpu {
namespace {

struct Half {
  uint16_t bits;
};
struct BrainHalf {
  uint16_t bits;
};

struct V {
  using Part = __m512;
  static constexpr int parts = 1, tile_rows = 6, tile_columns = 4, vector_columns = 4, sum_columns = 4;
  static constexpr bool slow_conversion = false;
  Part part[parts];

  static __mmask16 first(int count) { return __mmask16((1u << count) - 1); }
  static Part widen(__m256i bits) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)); }
  static __m256i bits(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  static Part load_part(const float* p) { return _mm512_loadu_ps(p); }
  static Part load_part(const Half* p) { return _mm512_cvtph_ps(bits(p)); }
  static Part load_part(const BrainHalf* p) { return widen(bits(p)); }
  static Part set_part(float value) { return _mm512_set1_ps(value); }
  static Part keep(Part value) { return value; }
  static void fma(Part& sum, Part a, Part b) { sum = _mm512_fmadd_ps(a, b, sum); }

  static V zero() { return set(0); }
  static V set(float value) { return {{set_part(value)}}; }
  template <class T>
  static V load(const T* p) {
    return {{load_part(p)}};
  }
  static V load(const float* p, int count) { return {{_mm512_maskz_loadu_ps(first(count), p)}}; }
  static V load(const Half* p, int count) { return {{_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(count), p))}}; }
  static V load(const BrainHalf* p, int count) { return {{widen(_mm256_maskz_loadu_epi16(first(count), p))}}; }
  void store(float* p) const { _mm512_storeu_ps(p, part[0]); }
  void store(float* p, int count) const { _mm512_mask_storeu_ps(p, first(count), part[0]); }
  void store(Half* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(part[0], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  void fma(const V& a, const V& b) { fma(part[0], a.part[0], b.part[0]); }

  /// Lanes 0..3 of the tree's second level: l[i] + l[i + 8], then that + [i + 4].
  __m128 quarter() const {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(part[0]), _mm512_extractf32x8_ps(part[0], 1));
    return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  }
  float sum() const {
    const __m128 q = quarter(), pair = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(pair, _mm_movehdup_ps(pair)));
  }
  static void sum4(const V* sums, float* out) {
    const __m128 a = sums[0].quarter(), b = sums[1].quarter(), c = sums[2].quarter(), d = sums[3].quarter();
    const __m128 ab = _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
    const __m128 cd = _mm_add_ps(_mm_movelh_ps(c, d), _mm_movehl_ps(d, c));
    _mm_storeu_ps(out, _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x88), _mm_shuffle_ps(ab, cd, 0xdd)));
  }
};

}  // namespace
}  // namespace chai::cpu

#include "kernels_impl.h"
// after the vector type and the matrix kernels
#include "elementwise_impl.h"

namespace chai::cpu {
const Kernels avx512_kernels = table("AVX-512");
}  // namespace chai::cpu
#endif
