// The CUDA half of the engine as the rest sees it. A build without nvcc links cuda/absent.cpp instead of the backend, with the same names.
#pragma once
#include <cstdlib>
#include <memory>
#include <string>
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

/// N of "cuda:N"; 0 of "cuda".
inline int cuda_index(const std::string& id) { return id.size() > 5 ? std::atoi(id.c_str() + 5) : 0; }

/// Every CUDA device, unusable ones with the reason; one entry "cuda" with the reason when the driver cannot be used at all. With a wish,
/// "cuda", "cuda:N" or "auto", that device alone, or those up to the first that can be used: these are opened, which takes memory there.
std::vector<Device> cuda_devices(const std::string& wish);

}  // namespace chai
