// Memory of the emulated device, and pinned host memory, which kernels reach as well. In: sizes. Out: addresses; whether an access hits
// what is allocated.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ptx {

/// One range of addresses of the process, handed out from 512-byte boundaries with gaps between, as cudaMalloc does. Host code may read and
/// write it.
class DeviceMemory {
 public:
  static DeviceMemory& instance();
  /// Null when more than `capacity` would be in use. Content is 0xcb, as from a device that others used before (beyond 1 GB zeros).
  void* allocate(size_t bytes);
  /// False: not what allocate() gave.
  bool release(void* memory);
  size_t used() const { return used_; }
  size_t capacity() const { return capacity_; }
  /// Whether all of [address, address + bytes) is allocated; bytes at most 128, and no access crosses a multiple of 128.
  bool valid(uint64_t address, size_t bytes) const {
    const uint64_t offset = address - base_;
    if (offset >= reserved_) return false;
    return (offset & (granule - 1)) + bytes <= shadow_[offset / granule];
  }
  bool contains(uint64_t address) const { return address - base_ < reserved_; }
  /// Whether all of a range of any size is allocated.
  bool valid_range(const void* from, size_t bytes) const;

 private:
  DeviceMemory();
  static constexpr uint64_t granule = 512;
  uint64_t base_ = 0, reserved_ = 0, next_ = 0;
  uint16_t* shadow_ = nullptr;  // of every granule: bytes allocated from its start
  size_t used_ = 0, capacity_ = 0;
};

}  // namespace ptx
