// What tests may set and ask of the host's stand-in for device memory.
#pragma once
#include <cstdint>

namespace chai::cuda {
void set_device_bytes(uint64_t total);
uint64_t device_bytes_used();
}  // namespace chai::cuda
