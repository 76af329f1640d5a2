// Stands in for the CUDA backend in a build without it. In: a wish for a GPU. Out: the reason why there is none.
#include "error.h"
#include "gpu.h"

namespace chai {
namespace {

const char* const reason = "this build has no CUDA code; it was compiled without nvcc";

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options) {
  throw Error(Code::device_unavailable,
              "device 'cuda:" + std::to_string(options.device) + "' cannot be used: " + reason + "; use device 'cpu' or 'auto'");
}

std::vector<Device> cuda_devices(const std::string&) {
  Device device;
  device.id = "cuda";
  device.name = "NVIDIA CUDA";
  device.reason = reason;
  return {device};
}

}  // namespace chai
