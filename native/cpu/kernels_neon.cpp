// The kernels compiled for one instruction set; see kernels.h and kernels_impl.h.
#include "vec_neon.h"
//
#include "kernels_impl.h"

namespace chai::cpu {

const Kernels& neon_kernels() {
  static constexpr Kernels kernels = make_kernels("NEON");
  return kernels;
}

}  // namespace chai::cpu
