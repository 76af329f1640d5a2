// The kernels compiled for one instruction set; see kernels.h and kernels_impl.h.
#include "vec_avx2.h"
//
#include "kernels_impl.h"

namespace chai::cpu {

const Kernels& avx2_kernels() {
  static constexpr Kernels kernels = make_kernels("AVX2");
  return kernels;
}

}  // namespace chai::cpu
