// Ceilings of one thread; see ceilings.h: loops that do nothing else.
#include "ceilings.h"

#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace chai::bench {
namespace {

volatile uint64_t kept;  // so that results are wanted
constexpr int chains = 12, turns = 4096;

// One loop for every instruction set. A macro, since a template is not inlined where it meets instructions that not every processor has.
#define MULTIPLY_ADDS(target, name, Vector, all_of, multiply_add, add, first_of, any_register) \
  target void name() {                                                                         \
    Vector sums[chains], x = all_of(float(kept & 1)), y = all_of(0.5f);                        \
    for (auto& sum : sums) sum = x;                                                            \
    for (int i = 0; i < turns; ++i) {                                                          \
      _Pragma("GCC unroll 12") for (auto& sum : sums) sum = multiply_add;                      \
      __asm__ volatile("" : any_register(x));                                                  \
    }                                                                                          \
    for (auto& sum : sums) x = add(x, sum);                                                    \
    kept = uint64_t(first_of(x));                                                              \
  }
#if defined(__x86_64__)
MULTIPLY_ADDS(__attribute__((target("avx512f"))), multiply_adds_512, __m512, _mm512_set1_ps, _mm512_fmadd_ps(x, y, sum), _mm512_add_ps,
              _mm512_cvtss_f32, "+v")
MULTIPLY_ADDS(__attribute__((target("avx2,fma"))), multiply_adds_256, __m256, _mm256_set1_ps, _mm256_fmadd_ps(x, y, sum), _mm256_add_ps,
              _mm256_cvtss_f32, "+x")
#elif defined(__aarch64__)
float first_of(float32x4_t x) { return vgetq_lane_f32(x, 0); }
MULTIPLY_ADDS([[gnu::noinline]], multiply_adds_128, float32x4_t, vdupq_n_f32, vfmaq_f32(sum, x, y), vaddq_f32, first_of, "+w")
#endif

}  // namespace

void read_all(const void* from, size_t bytes) {
  constexpr size_t streams = 2, line = 8, ahead = 64 * line;  // words; the hardware's own prefetching stops at every page
  const size_t part = bytes / sizeof(uint64_t) / streams;
  uint64_t sums[streams][line] = {};
  for (size_t i = 0; i < part; i += line)
    for (size_t s = 0; s < streams; ++s) {
      const uint64_t* const words = static_cast<const uint64_t*>(from) + s * part + i;
      for (size_t j = 0; j < line; j += 2) __builtin_prefetch(words + ahead + j, 0, 2);  // see `tile` in kernels_impl.h
      for (size_t j = 0; j < line; ++j) sums[s][j] += words[j];
    }
  for (auto& stream : sums)
    for (const uint64_t sum : stream) kept = kept + sum;
}

std::optional<MultiplyAdds> multiply_adds_of(const std::string& set) {
#if defined(__x86_64__)
  if (set == "AVX-512") return MultiplyAdds{2.0 * 16 * chains * turns, multiply_adds_512};
  if (set == "AVX2") return MultiplyAdds{2.0 * 8 * chains * turns, multiply_adds_256};
#elif defined(__aarch64__)
  if (set == "NEON") return MultiplyAdds{2.0 * 4 * chains * turns, multiply_adds_128};
#endif
  (void)set;
  return std::nullopt;
}

}  // namespace chai::bench
