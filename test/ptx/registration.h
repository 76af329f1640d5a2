// What nvcc's objects tell of themselves before main(). In: fat binaries, their kernels' host stubs. Out: kernels by the stub's address.
#pragma once
#include <memory>
#include <string>

#include "program.h"

namespace ptx {

struct FatBinary;

struct Function {
  std::string name;
  FatBinary* binary = nullptr;
  uint32_t dynamic_limit = 0;  // dynamic shared memory that a launch may ask for, once it was set
  bool limit_was_set = false;
  /// Read and decoded at its first use. Throws Refusal when nothing in the program is for this device, Unsupported for PTX that is not
  /// known.
  const Kernel& kernel();
};

/// Of a host stub's address, or what __cudaGetKernel gave for it. Throws Refusal.
Function& function_of(const void* stub);

}  // namespace ptx
