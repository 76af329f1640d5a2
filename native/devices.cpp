// Devices of this machine; see devices.h.
#include "devices.h"

#include "backend.h"
#include "gpu.h"
#include "platform/platform.h"

namespace chai {
namespace {

/// The instruction set out of a description like "cpu (AVX-512, 1 thread)".
std::string instruction_set(const std::string& description) {
  const size_t open = description.find('('), comma = description.find(',', open == std::string::npos ? 0 : open);
  if (open == std::string::npos || comma == std::string::npos) return description;
  return description.substr(open + 1, comma - open - 1);
}

Device cpu_device() {
  const auto backend = make_cpu_backend({.threads = 1});
  const DeviceMemory memory = backend->memory();
  const int cores = platform::physical_cores();
  Device device;
  device.id = "cpu";
  device.name = platform::processor_name();
  device.total_bytes = memory.total;
  device.free_bytes = memory.available;
  device.detail = instruction_set(backend->describe()) + ", " + std::to_string(cores) + (cores == 1 ? " core" : " cores");
  return device;
}

}  // namespace

std::vector<Device> devices(const std::string& wish) {
  std::vector<Device> found = {cpu_device()};
  if (wish == "cpu") return found;
  for (Device& device : cuda_devices(wish)) found.push_back(std::move(device));
  return found;
}

}  // namespace chai
