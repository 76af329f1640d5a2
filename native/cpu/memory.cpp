// Host memory for the CPU backend; see memory.h.
#include "memory.h"

#include <algorithm>
#include <new>

#include "../error.h"
#include "../platform/platform.h"

namespace chai::cpu {
namespace {

constexpr size_t huge_page = size_t{2} << 20;

Memory map(size_t bytes, const char* what, bool lazy) {
  const size_t size = std::max<size_t>((bytes + 4095) / 4096 * 4096, 4096);
  require_memory(size, what);
  void* at = platform::map_pages(size, lazy);
  if (!at)
    throw Error(Code::out_of_memory, std::string("the system refused ") + std::to_string(size) + " bytes for " + what +
                                         "; raise the process's address space limit (ulimit -v) or choose a smaller model or cache");
  return Memory(at, [size](void* region) { platform::unmap_pages(region, size); });
}

}  // namespace

DeviceMemory host_memory() {
  const platform::HostMemory memory = platform::host_memory();
  return {memory.total, memory.available};
}

void require_memory(uint64_t bytes, const char* what) {
  if (bytes < huge_page) return;  // asking the system costs more than such a region is worth
  const uint64_t available = host_memory().available;
  if (bytes > available)
    throw Error(Code::out_of_memory, std::string(what) + " needs " + std::to_string(bytes) + " bytes, but only " +
                                         std::to_string(available) +
                                         " bytes of memory are available; choose a smaller model, a shorter context or a smaller cache, "
                                         "or raise the container's memory limit");
}

Memory allocate_memory(size_t bytes, const char* what) {
  if (bytes >= huge_page) return map(bytes, what, false);
  constexpr std::align_val_t line{64};
  void* at = ::operator new(std::max<size_t>(bytes, 64), line, std::nothrow);
  if (!at) throw Error(Code::out_of_memory, "no " + std::to_string(bytes) + " bytes left for " + what + "; close models or sessions");
  std::fill_n(static_cast<char*>(at), bytes, char{0});
  return Memory(at, [](void* region) { ::operator delete(region, line); });
}

Memory reserve_memory(size_t bytes, const char* what) { return map(bytes, what, true); }

}  // namespace chai::cpu
