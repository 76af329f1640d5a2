// Devices of this machine; see devices.h.
#include "devices.h"

#include <fstream>

#include "backend.h"
#include "cpu/thread_pool.h"

#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

namespace chai {
namespace {

std::string processor_name() {
#ifdef __APPLE__
  char name[256] = {};
  size_t size = sizeof(name) - 1;
  if (sysctlbyname("machdep.cpu.brand_string", name, &size, nullptr, 0) == 0) return name;
#else
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (!line.starts_with("model name")) continue;
    const size_t start = line.find_first_not_of(" \t", line.find(':') + 1);
    if (line.find(':') != std::string::npos && start != std::string::npos) return line.substr(start);
  }
#endif
  return "CPU";  // some ARM kernels name no model
}

/// The instruction set out of a description like "cpu (AVX-512, 1 thread)".
std::string instruction_set(const std::string& description) {
  const size_t open = description.find('('), comma = description.find(',', open == std::string::npos ? 0 : open);
  if (open == std::string::npos || comma == std::string::npos) return description;
  return description.substr(open + 1, comma - open - 1);
}

Device cpu_device() {
  const auto backend = make_cpu_backend({.threads = 1});
  const DeviceMemory memory = backend->memory();
  const int cores = cpu::physical_cores();
  Device device;
  device.id = "cpu";
  device.name = processor_name();
  device.total_bytes = memory.total;
  device.free_bytes = memory.available;
  device.detail = instruction_set(backend->describe()) + ", " + std::to_string(cores) + (cores == 1 ? " core" : " cores");
  return device;
}

}  // namespace

std::vector<Device> devices() { return {cpu_device()}; }

}  // namespace chai
