// Kernel launches. In: a kernel, its grid, its arguments. Out: work on a stream; a typed error when the launch is refused.
#pragma once
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

/// More than 48 KB of dynamic shared memory is asked for on every launch; that call costs well under a microsecond and needs no state.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const Launch& how, Arguments&&... arguments) {
  if (how.shared_bytes > 48 * 1024)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(how.shared_bytes)), "shared memory of a kernel");
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

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const Launch& how, Arguments&&... arguments) {
  simt::enqueue(how.stream, [kernel, how, values = std::tuple<Parameters...>(std::forward<Arguments>(arguments)...)] {
    simt::launch(how.grid, how.block, how.shared_bytes, [&] { std::apply(kernel, values); });
  });
}
#endif

}  // namespace chai::cuda
