// Host memory for the CPU backend; see memory.h.
#include "memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <optional>
#include <sstream>

#include "../error.h"

namespace chai::cpu {
namespace {

constexpr size_t huge_page = size_t{2} << 20;

/// The number after `key` in a file of «key value» lines.
std::optional<uint64_t> field(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);)
    if (line.compare(0, key.size(), key) == 0) {
      std::istringstream rest(line.substr(key.size()));
      uint64_t value = 0;
      if (rest >> value) return value;
    }
  return std::nullopt;
}

/// A file that holds one number; nothing for «max» or no file.
std::optional<uint64_t> number(const std::string& path) {
  std::ifstream file(path);
  uint64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

/// Narrows `memory` by the control group at `path` below `base` and by all above it.
void apply_groups(const std::string& base, std::string path, bool v2, DeviceMemory& memory) {
  for (;;) {
    const std::string group = base + path + "/";
    const auto limit = number(group + (v2 ? "memory.max" : "memory.limit_in_bytes"));
    const auto used = number(group + (v2 ? "memory.current" : "memory.usage_in_bytes"));
    if (limit && used) {
      const uint64_t cache = field(group + "memory.stat", v2 ? "inactive_file " : "total_inactive_file ").value_or(0);
      const uint64_t held = *used > cache ? *used - cache : 0;
      memory.total = std::min(memory.total, *limit);
      memory.available = std::min(memory.available, *limit > held ? *limit - held : 0);
    }
    const size_t cut = path.rfind('/');
    if (path.empty() || cut == std::string::npos) return;
    path.resize(cut);
  }
}

void release(void* at, size_t bytes) { munmap(at, bytes); }

Memory map(size_t bytes, const char* what, bool lazy) {
  const size_t size = std::max<size_t>((bytes + 4095) / 4096 * 4096, 4096);
  require_memory(size, what);
  void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | (lazy ? MAP_NORESERVE : 0), -1, 0);
  if (at == MAP_FAILED)
    throw Error(Code::out_of_memory, std::string("the system refused ") + std::to_string(size) + " bytes for " + what +
                                         "; raise the process's address space limit (ulimit -v) or choose a smaller model or cache");
#ifdef MADV_HUGEPAGE
  if (size >= 2 * huge_page) madvise(at, size, MADV_HUGEPAGE);  // fewer address translations: a fifth off the time of cold head pages
#endif
  return Memory(at, [size](void* region) { release(region, size); });
}

}  // namespace

DeviceMemory host_memory(const std::string& root) {
  DeviceMemory memory;
  const uint64_t pages = uint64_t(std::max(0L, sysconf(_SC_PHYS_PAGES))), page = uint64_t(std::max(0L, sysconf(_SC_PAGESIZE)));
  memory.total = pages * page;
  memory.available = memory.total;
  if (const auto total = field(root + "/proc/meminfo", "MemTotal:")) memory.total = *total * 1024;
  if (const auto available = field(root + "/proc/meminfo", "MemAvailable:")) memory.available = *available * 1024;
  std::ifstream groups(root + "/proc/self/cgroup");  // lines «id:controllers:path», id 0 and no controllers for v2
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string path = line.substr(second + 1);
    if (path == "/") path.clear();
    if (controllers.empty()) apply_groups(root + "/sys/fs/cgroup", path, true, memory);
    if (("," + controllers + ",").find(",memory,") != std::string::npos) apply_groups(root + "/sys/fs/cgroup/memory", path, false, memory);
  }
  memory.available = std::min(memory.available, memory.total);
  return memory;
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
  void* at = std::aligned_alloc(64, std::max<size_t>((bytes + 63) / 64 * 64, 64));
  if (!at) throw Error(Code::out_of_memory, "no " + std::to_string(bytes) + " bytes left for " + what + "; close models or sessions");
  std::fill_n(static_cast<char*>(at), bytes, char{0});
  return Memory(at, [](void* region) { std::free(region); });
}

Memory reserve_memory(size_t bytes, const char* what) { return map(bytes, what, true); }

}  // namespace chai::cpu
