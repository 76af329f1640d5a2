// What Linux tells in /proc and /sys: memory with its control groups, cores, the processor's name; see platform.h.
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <optional>
#include <set>
#include <sstream>
#include <thread>
#include <utility>

#include "platform.h"

namespace chai::platform {
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
void apply_groups(const std::string& base, std::string path, bool v2, HostMemory& memory) {
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

/// Whole cores of this process's control group, rounded up.
int quota_cores() {
  std::ifstream v2("/sys/fs/cgroup/cpu.max");
  double quota = 0, period = 0;
  if (v2 >> quota >> period && period > 0) return std::max(1, int(quota / period + 0.99));
  std::ifstream v1_quota("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), v1_period("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  if (v1_quota >> quota && v1_period >> period && quota > 0 && period > 0) return std::max(1, int(quota / period + 0.99));
  return 1 << 20;
}

}  // namespace

/// MemAvailable and the control groups (v2 or v1) of this process; page cache counts as available.
HostMemory host_memory(const std::string& root) {
  HostMemory memory;
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

void* map_pages(size_t bytes, bool lazy) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | (lazy ? MAP_NORESERVE : 0), -1, 0);
  if (at == MAP_FAILED) return nullptr;
  if (bytes >= 2 * huge_page) madvise(at, bytes, MADV_HUGEPAGE);  // fewer address translations: a fifth off the time of cold head pages
  return at;
}

int physical_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return std::max(1, int(std::thread::hardware_concurrency()));
  std::set<std::pair<int, int>> cores;  // (package, core)
  int unknown = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &set)) continue;
    const std::string topology = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    int package = 0, core = 0;
    std::ifstream package_file(topology + "physical_package_id"), core_file(topology + "core_id");
    if (package_file >> package && core_file >> core)
      cores.insert({package, core});
    else
      ++unknown;
  }
  return std::max(1, std::min(int(cores.size()) + unknown, quota_cores()));
}

std::string processor_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (!line.starts_with("model name")) continue;
    const size_t start = line.find_first_not_of(" \t", line.find(':') + 1);
    if (line.find(':') != std::string::npos && start != std::string::npos) return line.substr(start);
  }
  return "CPU";  // some ARM kernels name no model
}

}  // namespace chai::platform
