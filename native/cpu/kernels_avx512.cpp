// The kernels compiled for one instruction set; see kernels.h and kernels_impl.h.
#include "vec_avx512.h"
//
#include "kernels_impl.h"

namespace chai::cpu {

const Kernels& avx512_kernels() {
  static constexpr Kernels kernels = make_kernels("AVX-512");
  return kernels;
}

}  // namespace chai::cpu
