// Which vector code this processor runs; see kernels.h.
#include "kernels.h"

namespace chai::cpu {

const Kernels* available_kernels(int index) {
  const Kernels* found[4];
  int count = 0;
#if defined(__x86_64__) && defined(__GNUC__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq"))
    found[count++] = &avx512_kernels();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found[count++] = &avx2_kernels();  // all of these have f16c
#elif defined(__aarch64__)
  found[count++] = &neon_kernels();
#endif
  found[count++] = &plain_kernels();
  return index >= 0 && index < count ? found[index] : nullptr;
}

}  // namespace chai::cpu
