// What the driver's management library (NVML) knows of a device that nobody has opened. In: a device's UUID. Out: its free memory. Opening
// a device to ask it costs some hundred MB of its memory until the process ends: too much for a look at a list.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace chai::cuda {

struct NvmlMemory {
  unsigned long long total = 0, free = 0, used = 0;
};

/// The functions in use, as nvml.h declares them with its handles as void*, its enumerations as int. A test puts its own here.
struct NvmlCalls {
  int (*device_by_uuid)(const char* uuid, void** device) = nullptr;
  int (*memory_of)(void* device, NvmlMemory* memory) = nullptr;
};

/// The machine's library, initialised; nothing where it is missing, as in containers that have the driver's compute half alone.
std::optional<NvmlCalls> open_nvml();

/// Bytes that no process has taken; nothing where the library does not know. `uuid`: 16 bytes, of a whole device or of a part of one (MIG).
std::optional<uint64_t> free_bytes_by_nvml(const NvmlCalls& nvml, const unsigned char* uuid);

}  // namespace chai::cuda
