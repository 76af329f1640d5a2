// The CUDA half of the engine as the rest sees it. A build without nvcc links cuda/absent.cpp instead of the backend, with the same names.
#pragma once
#include <memory>
#include <vector>

#include "backend.h"
#include "devices.h"

namespace chai {

struct CudaOptions {
  int device = 0;
  Element compute = Element::float16;  // type of the matrices: float16 or bfloat16
  bool graphs = true;                  // decode steps are recorded once and replayed
  bool cublas = true;                  // large products through the machine's cuBLAS, where there is one
  bool hopper_prefill = false;         // the prefill kernel for compute capability 9.0: off until it has run on one
  int steps_in_flight = 2;             // while one step runs, the next ones already wait on the device; 1 to 8
};

/// Throws device_unavailable with the cause: no such device, no driver, driver too old, compute capability too low, no CUDA in this build.
std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options);

/// Every CUDA device, unusable ones with the reason; one entry "cuda" with the reason when the driver cannot be used at all.
std::vector<Device> cuda_devices();

}  // namespace chai
