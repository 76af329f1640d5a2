// What the emulated device is. In: settings. Out: its properties, versions, the driver's one function that the project looks up.
#include <cuda.h>

#include <algorithm>
#include <cstring>

#include "calls.h"
#include "runtime_memory.h"
#include "settings.h"

/// In hopper.cpp.
extern "C" decltype(cuTensorMapEncodeTiled) ptx_tensor_map_encode_tiled;

using namespace ptx;

namespace {

void check_device(int device) {
  if (device != 0) throw Refusal{cudaErrorInvalidDevice, "there is only device 0"};
}

int attribute_of(cudaDeviceAttr attribute) {
  switch (attribute) {
    case cudaDevAttrComputeMode: return cudaComputeModeDefault;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return settings().most_shared;
    case cudaDevAttrMaxSharedMemoryPerBlock: return 48 * 1024;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return settings().processor_shared;
    case cudaDevAttrMultiProcessorCount: return settings().processors;
    case cudaDevAttrComputeCapabilityMajor: return settings().capability / 10;
    case cudaDevAttrComputeCapabilityMinor: return settings().capability % 10;
    default: throw Refusal{cudaErrorNotSupported, "device attribute " + std::to_string(int(attribute)) + " is not known here"};
  }
}

void describe(cudaDeviceProp& p) {
  p = {};
  std::strcpy(p.name, "chai PTX emulator");
  std::memcpy(p.uuid.bytes, "chai PTX device", 16);
  p.totalGlobalMem = device_bytes();
  p.sharedMemPerBlock = 48 * 1024, p.sharedMemPerBlockOptin = size_t(settings().most_shared);
  p.sharedMemPerMultiprocessor = size_t(settings().processor_shared), p.reservedSharedMemPerBlock = 1024;
  p.regsPerBlock = p.regsPerMultiprocessor = 65536;
  p.warpSize = 32;
  p.maxThreadsPerBlock = 1024, p.maxThreadsPerMultiProcessor = 2048, p.maxBlocksPerMultiProcessor = 32;
  p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024, p.maxThreadsDim[2] = 64;
  p.maxGridSize[0] = 0x7fffffff, p.maxGridSize[1] = p.maxGridSize[2] = 65535;
  p.totalConstMem = 65536;
  p.major = settings().capability / 10, p.minor = settings().capability % 10;
  p.multiProcessorCount = settings().processors;
  p.l2CacheSize = 50 << 20;
  p.asyncEngineCount = 3, p.concurrentKernels = 1, p.unifiedAddressing = 1, p.canMapHostMemory = 1;
  p.memoryBusWidth = 5120;
}

}  // namespace

extern "C" {

cudaError_t cudaDriverGetVersion(int* version) {
  return host_call("cudaDriverGetVersion", [&] { *version = 13000; });
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  return host_call("cudaRuntimeGetVersion", [&] { *version = 13000; });
}
cudaError_t cudaGetDeviceCount(int* count) {
  return host_call("cudaGetDeviceCount", [&] { *count = 1; });
}
cudaError_t cudaGetDevice(int* device) {
  return host_call("cudaGetDevice", [&] { *device = 0; });
}
cudaError_t cudaSetDevice(int device) {
  return host_call("cudaSetDevice", [&] { check_device(device); });
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  return host_call("cudaGetDeviceProperties", [&] {
    check_device(device);
    describe(*properties);
  });
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  return host_call("cudaDeviceGetAttribute", [&] {
    check_device(device);
    *value = attribute_of(attribute);
  });
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  return host_call("cudaGetDriverEntryPointByVersion", [&] {
    const bool known = std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
    *function = known ? reinterpret_cast<void*>(&ptx_tensor_map_encode_tiled) : nullptr;
    if (result) *result = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  });
}

}  // extern "C"
