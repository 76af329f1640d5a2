// What macOS tells by sysctl and Mach: memory, cores, the processor's name; see platform.h.
#include <mach/mach.h>
#include <sys/mman.h>
#include <sys/sysctl.h>

#include <algorithm>
#include <thread>

#include "platform.h"

namespace chai::platform {
namespace {

/// A number that sysctl knows by name, else 0.
template <class Number>
Number value_of(const char* name) {
  Number value = 0;
  size_t size = sizeof(value);
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 ? value : 0;
}

}  // namespace

/// Free, inactive and purgeable pages count as available: the system gives the last two away when they are asked for.
HostMemory host_memory(const std::string&) {
  HostMemory memory;
  memory.total = memory.available = value_of<uint64_t>("hw.memsize");
  vm_statistics64_data_t pages{};
  mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
  const mach_port_t host = mach_host_self();
  if (host_statistics64(host, HOST_VM_INFO64, reinterpret_cast<host_info64_t>(&pages), &count) == KERN_SUCCESS)
    memory.available = (uint64_t(pages.free_count) + pages.inactive_count + pages.purgeable_count) * vm_kernel_page_size;
  mach_port_deallocate(mach_task_self(), host);
  memory.available = std::min(memory.available, memory.total);
  return memory;
}

/// Pages are always taken when first written.
void* map_pages(size_t bytes, bool) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
  return at == MAP_FAILED ? nullptr : at;
}

/// Fast cores alone: a product waits for its slowest thread.
int physical_cores() {
  const int fast = value_of<int>("hw.perflevel0.physicalcpu"), all = value_of<int>("hw.physicalcpu");
  return fast > 0 ? fast : all > 0 ? all : std::max(1, int(std::thread::hardware_concurrency()));
}

std::string processor_name() {
  char name[256] = {};
  size_t size = sizeof(name) - 1;
  return sysctlbyname("machdep.cpu.brand_string", name, &size, nullptr, 0) == 0 ? name : "CPU";
}

}  // namespace chai::platform
