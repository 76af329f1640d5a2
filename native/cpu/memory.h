// Host memory for the CPU backend: what is free, and aligned regions that are checked against it first. In: byte counts. Out: Memory.
#pragma once
#include <string>

#include "../backend.h"

namespace chai::cpu {

/// Total and available bytes of this process.
DeviceMemory host_memory();

/// Throws out_of_memory when `bytes` are not available. `what` names the use.
void require_memory(uint64_t bytes, const char* what);

/// Zero-filled, 64-byte aligned, large regions on huge pages where the system has them. Throws out_of_memory.
Memory allocate_memory(size_t bytes, const char* what);

/// Zero-filled address space whose pages are taken when they are first written. Throws out_of_memory.
Memory reserve_memory(size_t bytes, const char* what);

}  // namespace chai::cpu
