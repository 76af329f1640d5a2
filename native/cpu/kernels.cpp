// Which kernel tables this machine can run; see kernels.h.
#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace chai::cpu {
namespace {

#if defined(__x86_64__)
/// By hand: clang before 16 does not know this name in __builtin_cpu_supports.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}
#endif

}  // namespace

std::vector<const Kernels*> usable_kernels() {
  std::vector<const Kernels*> usable{&plain_kernels};
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
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
