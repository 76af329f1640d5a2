// Kernel launches and what a kernel is allowed. In: a stub's address, a grid, pointers to the arguments. Out: work on a stream, if a device
// would take it.
#include <algorithm>
#include <cstring>

#include "calls.h"
#include "registration.h"
#include "settings.h"
#include "stream.h"

namespace ptx {
namespace {

/// Of a grid or a block: as "(1, 2, 3)".
std::string words_of(const dim3& d) { return "(" + std::to_string(d.x) + ", " + std::to_string(d.y) + ", " + std::to_string(d.z) + ")"; }

void check_shape(const Kernel& kernel, const dim3& grid, const dim3& block) {
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  const auto refuse = [&](cudaError_t error, const std::string& why) { throw Refusal{error, kernel.name + ": " + why}; };
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535)
    refuse(cudaErrorInvalidConfiguration, "a grid of " + words_of(grid));
  if (threads == 0 || block.x > 1024 || block.y > 1024 || block.z > 64 || threads > 1024)
    refuse(cudaErrorInvalidConfiguration, "a block of " + words_of(block));
  if (threads > kernel.max_threads)
    refuse(cudaErrorInvalidValue, std::to_string(threads) + " threads, compiled for " + std::to_string(kernel.max_threads));
}

/// Dynamic shared memory that a launch may ask for.
uint32_t limit_of(const Function& function, const Kernel& kernel) {
  return function.limit_was_set ? function.dynamic_limit : 48 * 1024 - std::min(48u * 1024, kernel.static_shared);
}

void check_shared(const Function& function, const Kernel& kernel, size_t bytes) {
  if (bytes <= limit_of(function, kernel)) return;
  throw Refusal{cudaErrorInvalidValue, kernel.name + ": " + std::to_string(bytes) + " bytes of dynamic shared memory, " +
                                           std::to_string(limit_of(function, kernel)) + " are allowed"};
}

std::vector<uint8_t> laid_out(const Kernel& kernel, void** arguments) {
  std::vector<uint8_t> bytes(kernel.parameter_bytes);
  if (!arguments && !kernel.parameters.empty()) throw Refusal{cudaErrorInvalidValue, kernel.name + ": no arguments"};
  for (size_t i = 0; i < kernel.parameters.size(); ++i) {
    const Parameter& to = kernel.parameters[i];
    std::memcpy(bytes.data() + to.offset, arguments[i], to.bytes);
  }
  return bytes;
}

void launch(const void* stub, const dim3& grid, const dim3& block, void** arguments, size_t shared_bytes, cudaStream_t on, bool early) {
  Function& function = function_of(stub);
  Stream& stream = stream_of(on);
  const Kernel& kernel = function.kernel();
  check_shape(kernel, grid, block);
  check_shared(function, kernel, shared_bytes);
  if (early && settings().capability < 90) throw Refusal{cudaErrorNotSupported, kernel.name + ": an early launch needs 9.0"};
  KernelWork work{&kernel, {}};
  const unsigned sizes[2][3] = {{grid.x, grid.y, grid.z}, {block.x, block.y, block.z}};
  std::copy_n(sizes[0], 3, work.launch.grid);
  std::copy_n(sizes[1], 3, work.launch.block);
  work.launch.shared_bytes = uint32_t(shared_bytes);
  work.launch.early = early;
  work.launch.parameters = laid_out(kernel, arguments);
  work.launch.schedule = settings().schedule;
  if (kernel.name.find(settings().blocks_of) == std::string::npos) work.launch.schedule.most_blocks = 0;
  enqueue(stream, std::move(work));
}

bool early_of(const cudaLaunchConfig_t& config) {
  bool early = false;
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = config.attrs[i];
    if (attribute.id == cudaLaunchAttributeProgrammaticStreamSerialization)
      early = attribute.val.programmaticStreamSerializationAllowed != 0;
    else if (attribute.id != cudaLaunchAttributeIgnore)
      throw Refusal{cudaErrorNotSupported, "launch attribute " + std::to_string(int(attribute.id)) + " is not known here"};
  }
  return early;
}

/// There is no ptxas here: more for longer kernels, and what the launch bounds leave at most.
int registers_of(const Kernel& kernel) {
  const uint32_t most = std::min(255u, 65536 / std::max(32u, kernel.max_threads) / 8 * 8);
  return int(std::min<size_t>(most, 16 + kernel.ops.size() / 8));
}

int version_of(const Kernel& kernel) { return std::atoi(kernel.target.c_str() + 3); }

struct Configuration {
  dim3 grid, block;
  size_t shared_bytes;
  cudaStream_t stream;
};
thread_local std::vector<Configuration> configurations;  // of <<<...>>> whose stub has not run yet

}  // namespace
}  // namespace ptx

using namespace ptx;

extern "C" {

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, CUstream_st* stream) {
  configurations.push_back({grid, block, shared_bytes, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes, void* stream) {
  if (configurations.empty()) return cudaErrorUnknown;
  const Configuration& last = configurations.back();
  *grid = last.grid, *block = last.block, *shared_bytes = last.shared_bytes;
  *static_cast<cudaStream_t*>(stream) = last.stream;
  configurations.pop_back();
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* stub, dim3 grid, dim3 block, void** arguments, size_t shared_bytes, cudaStream_t stream) {
  return device_call("cudaLaunchKernel", [&] { launch(stub, grid, block, arguments, shared_bytes, stream, false); });
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared_bytes, cudaStream_t stream) {
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, arguments, shared_bytes, stream);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* stub, void** arguments) {
  return device_call("cudaLaunchKernelExC", [&] {
    launch(stub, config->gridDim, config->blockDim, arguments, config->dynamicSmemBytes, config->stream, early_of(*config));
  });
}

cudaError_t cudaFuncSetAttribute(const void* stub, cudaFuncAttribute attribute, int value) {
  return device_call("cudaFuncSetAttribute", [&] {
    Function& function = function_of(stub);
    const Kernel& kernel = function.kernel();
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
      throw Refusal{cudaErrorNotSupported, "function attribute " + std::to_string(int(attribute)) + " is not known here"};
    if (value < 0 || int64_t(value) + kernel.static_shared > settings().most_shared)
      throw Refusal{cudaErrorInvalidValue, kernel.name + ": " + std::to_string(value) + " bytes of dynamic shared memory and " +
                                               std::to_string(kernel.static_shared) + " of static"};
    function.dynamic_limit = uint32_t(value);
    function.limit_was_set = true;
  });
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* stub) {
  return device_call("cudaFuncGetAttributes", [&] {
    const Function& function = function_of(stub);
    const Kernel& kernel = function_of(stub).kernel();
    *attributes = {};
    attributes->sharedSizeBytes = kernel.static_shared;
    attributes->localSizeBytes = kernel.local_bytes;
    attributes->maxThreadsPerBlock = int(kernel.max_threads);
    attributes->numRegs = registers_of(kernel);
    attributes->ptxVersion = version_of(kernel);
    attributes->binaryVersion = settings().capability;
    attributes->maxDynamicSharedSizeBytes = int(limit_of(function, kernel));
  });
}

}  // extern "C"
