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

#if defined(__x86_64__)
__attribute__((target("avx512f"))) void multiply_adds_512() {
  __m512 sums[chains], x = _mm512_set1_ps(float(kept & 1)), y = _mm512_set1_ps(0.5f);
  for (auto& sum : sums) sum = x;
  for (int i = 0; i < turns; ++i) {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm512_fmadd_ps(x, y, sum);
    __asm__ volatile("" : "+v"(x));
  }
  for (auto& sum : sums) x = _mm512_add_ps(x, sum);
  kept = uint64_t(_mm512_cvtss_f32(x));
}
__attribute__((target("avx2,fma"))) void multiply_adds_256() {
  __m256 sums[chains], x = _mm256_set1_ps(float(kept & 1)), y = _mm256_set1_ps(0.5f);
  for (auto& sum : sums) sum = x;
  for (int i = 0; i < turns; ++i) {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm256_fmadd_ps(x, y, sum);
    __asm__ volatile("" : "+x"(x));
  }
  for (auto& sum : sums) x = _mm256_add_ps(x, sum);
  kept = uint64_t(_mm256_cvtss_f32(x));
}
#elif defined(__aarch64__)
void multiply_adds_128() {
  float32x4_t sums[chains], x = vdupq_n_f32(float(kept & 1)), y = vdupq_n_f32(0.5f);
  for (auto& sum : sums) sum = x;
  for (int i = 0; i < turns; ++i) {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = vfmaq_f32(sum, x, y);
    __asm__ volatile("" : "+w"(x));
  }
  for (auto& sum : sums) x = vaddq_f32(x, sum);
  kept = uint64_t(vgetq_lane_f32(x, 0));
}
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
