// Which kernel tables this machine can run; see kernels.h.
#include "kernels.h"

namespace chai::cpu {

std::vector<const Kernels*> usable_kernels() {
  std::vector<const Kernels*> usable{&plain_kernels};
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (avx2) usable.push_back(&avx2_kernels);
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq"))
    usable.push_back(&avx512_kernels);
#elif defined(__aarch64__)
  usable.push_back(&neon_kernels);  // part of the base instruction set
#endif
  return usable;
}

}  // namespace chai::cpu
