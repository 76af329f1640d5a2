// The emulated device's memory: a reserved range, and how much of each 512 bytes of it is allocated.
#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>

namespace ptx {
namespace {
std::mutex mutex;
std::map<uint64_t, size_t> allocated;         // offset, bytes
constexpr size_t poisoned = size_t{1} << 30;  // more stays zeros, of which the system keeps none
std::multimap<size_t, uint64_t> free_runs;    // granules, offset
}  // namespace

DeviceMemory& DeviceMemory::instance() {
  static DeviceMemory memory;
  return memory;
}

DeviceMemory::DeviceMemory() {
  reserved_ = uint64_t{1} << 38;
  const char* megabytes = std::getenv("PTX_MEMORY_MB");
  capacity_ = (megabytes ? std::strtoull(megabytes, nullptr, 10) : 8192) << 20;
  void* range = mmap(nullptr, reserved_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  void* shadow = mmap(nullptr, reserved_ / granule * 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED || shadow == MAP_FAILED) throw std::bad_alloc();
  base_ = reinterpret_cast<uint64_t>(range);
  shadow_ = static_cast<uint16_t*>(shadow);
  next_ = granule;
}

void* DeviceMemory::allocate(size_t bytes) {
  const std::lock_guard<std::mutex> lock(mutex);
  bytes = std::max<size_t>(bytes, 1);
  if (bytes > capacity_ - used_) return nullptr;
  const uint64_t granules = (bytes + granule - 1) / granule + 1;  // and one that is never valid
  uint64_t offset = next_;
  if (const auto run = free_runs.lower_bound(granules); run != free_runs.end()) {
    offset = run->second;
    const uint64_t rest = run->first - granules;
    free_runs.erase(run);
    if (rest > 1) free_runs.emplace(rest, offset + granules * granule);
  } else {
    if (granules * granule > reserved_ - next_) return nullptr;
    next_ += granules * granule;
  }
  for (uint64_t at = 0; at < bytes; at += granule) shadow_[(offset + at) / granule] = uint16_t(std::min<uint64_t>(granule, bytes - at));
  used_ += bytes;
  allocated[offset] = bytes;
  void* memory = reinterpret_cast<void*>(base_ + offset);
  if (bytes <= poisoned) std::memset(memory, 0xcb, bytes);
  return memory;
}

bool DeviceMemory::release(void* memory) {
  const std::lock_guard<std::mutex> lock(mutex);
  const uint64_t offset = reinterpret_cast<uint64_t>(memory) - base_;
  const auto found = allocated.find(offset);
  if (found == allocated.end()) return false;
  const size_t bytes = found->second;
  allocated.erase(found);
  used_ -= bytes;
  const uint64_t granules = (bytes + granule - 1) / granule;
  std::fill_n(shadow_ + offset / granule, granules, uint16_t{0});
  const uint64_t first = (reinterpret_cast<uint64_t>(memory) + 4095) / 4096 * 4096,
                 last = (reinterpret_cast<uint64_t>(memory) + bytes) / 4096 * 4096;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  free_runs.emplace(granules + 1, offset);
  return true;
}

bool DeviceMemory::valid_range(const void* from, size_t bytes) const {
  uint64_t at = reinterpret_cast<uint64_t>(from);
  const uint64_t end = at + bytes;
  while (at < end) {
    const uint64_t piece = std::min<uint64_t>(end, (at / granule + 1) * granule) - at;
    if (!valid(at, piece)) return false;
    at += piece;
  }
  return true;
}

}  // namespace ptx
