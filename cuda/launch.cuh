// Kernel launches. In: a kernel, its grid, its arguments. Out: work on a stream; a typed error when the launch is refused.
#pragma once
#include <algorithm>
#include <tuple>
#include <utility>

#include "dev.cuh"
#include "runtime.h"

namespace chai::cuda {

struct Launch {
  dim3 grid, block;
  size_t shared_bytes = 0;  // dynamic shared memory
  Stream stream = nullptr;
  bool early = false;  // may start while the kernel before it ends; it must then call dev::wait_for_previous_kernel()
};

#if defined(__CUDACC__)
/// Architecture that a kernel's loaded code was compiled for, 90 for compute_90; lower than the device's where PTX was translated.
/// Launches may be `early` only from 90 on: older code has no wait.
template <class... Parameters>
int code_version(void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, kernel), "a kernel's attributes");
  return attributes.ptxVersion;
}
/// Registers that a thread of the loaded code takes at its start.
template <class... Parameters>
int registers_of(void (*kernel)(Parameters...)) {
  cudaFuncAttributes attributes{};
  check(cudaFuncGetAttributes(&attributes, kernel), "a kernel's attributes");
  return attributes.numRegs;
}

/// More than 48 KB of shared memory is asked for on every launch; that costs well under a microsecond and needs no state. The limit
/// is the kernel's, not the launch's, and engines on other threads set it as well: always to the same, so that none lowers it between the
/// two calls of another. 1 KB is left for shared memory that is not dynamic, in these 48 KB and in the most there is.
template <class... Parameters>
void allow_shared_bytes(void (*kernel)(Parameters...), size_t bytes) {
  int device = 0, most = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "shared memory of a device");
  const int limit = std::max(most - 1024, int(bytes));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limit), "shared memory of a kernel");
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const Launch& how, Arguments&&... arguments) {
  if (how.shared_bytes > 47 * 1024) allow_shared_bytes(kernel, how.shared_bytes);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = how.grid;
  config.blockDim = how.block;
  config.dynamicSmemBytes = how.shared_bytes;
  config.stream = reinterpret_cast<cudaStream_t>(how.stream);
  config.attrs = &attribute;
  config.numAttrs = how.early ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...), "a kernel launch");
}
#else
template <class... Parameters>
int code_version(void (*)(Parameters...)) {
  return 0;
}
template <class... Parameters>
int registers_of(void (*)(Parameters...)) {
  return 0;
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const Launch& how, Arguments&&... arguments) {
  simt::enqueue(how.stream, [kernel, how, values = std::tuple<Parameters...>(std::forward<Arguments>(arguments)...)] {
    simt::launch(how.grid, how.block, how.shared_bytes, [&] { std::apply(kernel, values); });
  });
}
#endif

}  // namespace chai::cuda
