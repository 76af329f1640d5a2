// The kernels compiled for one instruction set; see kernels.h and kernels_impl.h.
#include "vec_plain.h"
//
#include "kernels_impl.h"

namespace chai::cpu {

const Kernels& plain_kernels() {
  static constexpr Kernels kernels = make_kernels("plain");
  return kernels;
}

}  // namespace chai::cpu
