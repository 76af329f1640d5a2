// NVML at run time; see nvml.h.
#include "nvml.h"

#include <type_traits>

#include "platform/platform.h"

namespace chai::cuda {
namespace {

constexpr int success = 0;

/// "GPU-8c7e1c57-...", in groups of 4, 2, 2, 2 and 6 bytes.
std::string words_of(const char* kind, const unsigned char* uuid) {
  constexpr char digits[] = "0123456789abcdef";
  std::string words = kind;
  for (int i = 0; i < 16; ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) words += '-';
    words += digits[uuid[i] >> 4];
    words += digits[uuid[i] & 15];
  }
  return words;
}

}  // namespace

std::optional<NvmlCalls> open_nvml() {
  void* library = nullptr;
  for (const char* name : {"libnvidia-ml.so.1", "nvml.dll"}) {
    std::string why_not;
    if (!library) library = platform::open_library(name, why_not);
  }
  if (!library) return std::nullopt;
  NvmlCalls calls;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(platform::find_function(library, name));
    return function != nullptr;
  };
  int (*init)() = nullptr;
  const bool whole = find(init, "nvmlInit_v2") && find(calls.device_by_uuid, "nvmlDeviceGetHandleByUUID") &&
                     find(calls.memory_of, "nvmlDeviceGetMemoryInfo");
  return whole && init() == success ? std::optional(calls) : std::nullopt;
}

std::optional<uint64_t> free_bytes_by_nvml(const NvmlCalls& nvml, const unsigned char* uuid) {
  for (const char* kind : {"GPU", "MIG"}) {
    void* device = nullptr;
    NvmlMemory memory;
    if (nvml.device_by_uuid(words_of(kind, uuid).c_str(), &device) == success)
      return nvml.memory_of(device, &memory) == success ? std::optional<uint64_t>(memory.free) : std::nullopt;
  }
  return std::nullopt;
}

}  // namespace chai::cuda
