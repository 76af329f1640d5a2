// What Linux tells in /proc and /sys: memory with its control groups, cores, the processor's name; see platform.h.
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "platform.h"

namespace chai::platform {
namespace {

constexpr size_t huge_page = size_t{2} << 20;

/// The lines of a file of the kernel; none where there is no such file. By hand: C++ streams would bring 0.4 MB of locales into the addon.
std::vector<std::string> lines_of(const std::string& path) {
  std::string text;
  if (std::FILE* file = std::fopen(path.c_str(), "re")) {
    char part[4096];
    for (size_t count = 0; (count = std::fread(part, 1, sizeof part, file)) > 0;) text.append(part, count);
    std::fclose(file);
  }
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

/// The whole number at the front of `text`, after spaces; nothing for «max».
std::optional<int64_t> leading_number(const std::string& text) {
  const char* at = text.c_str() + std::min(text.find_first_not_of(" \t"), text.size());
  int64_t value = 0;
  const auto result = std::from_chars(at, text.c_str() + text.size(), value);
  if (result.ec != std::errc{}) return std::nullopt;
  return value;
}

/// The number after `key` in a file of «key value» lines.
std::optional<int64_t> field(const std::string& path, const std::string& key) {
  for (const std::string& line : lines_of(path))
    if (line.starts_with(key))
      if (const auto value = leading_number(line.substr(key.size()))) return value;
  return std::nullopt;
}

/// A file that holds one number; nothing for «max» or no file.
std::optional<int64_t> number(const std::string& path) {
  const auto lines = lines_of(path);
  return lines.empty() ? std::nullopt : leading_number(lines.front());
}

/// Narrows `memory` by the control group at `path` below `base` and by all above it.
void apply_groups(const std::string& base, std::string path, bool v2, HostMemory& memory) {
  for (;;) {
    const std::string group = base + path + "/";
    const auto limit = number(group + (v2 ? "memory.max" : "memory.limit_in_bytes"));
    const auto used = number(group + (v2 ? "memory.current" : "memory.usage_in_bytes"));
    if (limit && used) {
      const int64_t cache = field(group + "memory.stat", v2 ? "inactive_file " : "total_inactive_file ").value_or(0);
      const int64_t held = std::max<int64_t>(0, *used - cache);
      memory.total = std::min(memory.total, uint64_t(*limit));
      memory.available = std::min(memory.available, uint64_t(std::max<int64_t>(0, *limit - held)));
    }
    const size_t cut = path.rfind('/');
    if (path.empty() || cut == std::string::npos) return;
    path.resize(cut);
  }
}

/// Whole cores of this process's control group, rounded up.
int quota_cores() {
  std::optional<int64_t> quota, period;
  if (const auto v2 = lines_of("/sys/fs/cgroup/cpu.max"); !v2.empty()) {  // «quota period», or «max period»
    quota = leading_number(v2.front());
    period = leading_number(v2.front().substr(std::min(v2.front().find(' '), v2.front().size())));
  } else {
    quota = number("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), period = number("/sys/fs/cgroup/cpu/cpu.cfs_period_us");  // -1: no limit
  }
  if (!quota || !period || *quota <= 0 || *period <= 0) return 1 << 20;
  return std::max(1, int(double(*quota) / double(*period) + 0.99));
}

}  // namespace

/// MemAvailable and the control groups (v2 or v1) of this process; page cache counts as available.
HostMemory host_memory(const std::string& root) {
  HostMemory memory;
  const uint64_t pages = uint64_t(std::max(0L, sysconf(_SC_PHYS_PAGES))), page = uint64_t(std::max(0L, sysconf(_SC_PAGESIZE)));
  memory.total = pages * page;
  memory.available = memory.total;
  if (const auto total = field(root + "/proc/meminfo", "MemTotal:")) memory.total = uint64_t(*total) * 1024;
  if (const auto available = field(root + "/proc/meminfo", "MemAvailable:")) memory.available = uint64_t(*available) * 1024;
  for (const std::string& line : lines_of(root + "/proc/self/cgroup")) {  // «id:controllers:path», id 0 and no controllers for v2
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
  std::set<std::pair<int64_t, int64_t>> cores;  // (package, core)
  int unknown = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &set)) continue;
    const std::string topology = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    const auto package = number(topology + "physical_package_id"), core = number(topology + "core_id");
    if (package && core)
      cores.insert({*package, *core});
    else
      ++unknown;
  }
  return std::max(1, std::min(int(cores.size()) + unknown, quota_cores()));
}

std::string processor_name() {
  for (const std::string& line : lines_of("/proc/cpuinfo")) {
    if (!line.starts_with("model name")) continue;
    const size_t start = line.find_first_not_of(" \t", line.find(':') + 1);
    if (line.find(':') != std::string::npos && start != std::string::npos) return line.substr(start);
  }
  return "CPU";  // some ARM kernels name no model
}

}  // namespace chai::platform
