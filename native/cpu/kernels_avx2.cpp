// Kernels for x86-64 with AVX2, FMA and F16C; see kernels.h.
#if defined(__x86_64__)
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

/// Lanes 0..7 and 8..15.
struct V {
  using Part = __m256;
  static constexpr int parts = 2, tile_rows = 3, tile_columns = 2, vector_columns = 4, sum_columns = 2;
  static constexpr bool slow_conversion = false;
  Part part[parts];

  static __m256i first(int count) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)); }
  static __m128i bits(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
  static Part load_part(const float* p) { return _mm256_loadu_ps(p); }
  static Part load_part(const Half* p) { return _mm256_cvtph_ps(bits(p)); }
  static Part load_part(const BrainHalf* p) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits(p)), 16)); }
  static Part set_part(float value) { return _mm256_set1_ps(value); }
  /// Makes the compiler load a value once for all its uses: folded into every multiply, loads would be the bottleneck (measured 20 %
  /// slower).
  static Part keep(Part value) {
    asm("" : "+x"(value));
    return value;
  }
  static void fma(Part& sum, Part a, Part b) { sum = _mm256_fmadd_ps(a, b, sum); }

  static V zero() { return set(0); }
  static V set(float value) { return {{set_part(value), set_part(value)}}; }
  template <class T>
  static V load(const T* p) {
    return {{load_part(p), load_part(p + 8)}};
  }
  static V load(const float* p, int count) { return {{_mm256_maskload_ps(p, first(count)), _mm256_maskload_ps(p + 8, first(count - 8))}}; }
  template <class T>
  static V load(const T* p, int count) {
    T some[16] = {};
    __builtin_memcpy(some, p, size_t(count) * sizeof(T));
    return load(static_cast<const T*>(some));
  }
  void store(float* p) const {
    _mm256_storeu_ps(p, part[0]);
    _mm256_storeu_ps(p + 8, part[1]);
  }
  void store(float* p, int count) const {
    _mm256_maskstore_ps(p, first(count), part[0]);
    _mm256_maskstore_ps(p + 8, first(count - 8), part[1]);
  }
  void store(Half* p) const {
    constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(part[0], nearest));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(part[1], nearest));
  }
  void fma(const V& a, const V& b) {
    fma(part[0], a.part[0], b.part[0]);
    fma(part[1], a.part[1], b.part[1]);
  }

  /// Lanes 0..3 of the tree's second level: l[i] + l[i + 8], then that + [i + 4].
  __m128 quarter() const {
    const __m256 half = _mm256_add_ps(part[0], part[1]);
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
const Kernels avx2_kernels = table("AVX2");
}  // namespace chai::cpu
#endif
