// What the tests of kernels share. In: host vectors. Out: device memory, read back on demand; the first device. Only cuda/runtime.h is
// used, so that the same tests run on a GPU and, through the host shim, without one.
#pragma once
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "device_memory.h"
#include "runtime.h"

#if __has_include("simt_fiber.h")  // the host shim
#include "simt_fiber.h"
#endif

namespace chai::cuda {

inline DeviceFacts test_device() {
  std::string why_none;
  if (count_devices(why_none) == 0) throw std::runtime_error("no device: " + why_none);
  use_device(0);
  return open_device(0);
}

/// Leaves a test out on a device without the instructions of compute capability 9.0; the shim has them.
inline void needs_hopper() {
#if !__has_include("simt_fiber.h")
  if (const int capability = test_device().capability; capability != 90)
    throw LeftOut{"it is for compute capability 9.0, this device has " + std::to_string(capability / 10) + "." +
                  std::to_string(capability % 10)};
#endif
}

/// Order of lanes, warps and asynchronous copies under the shim, 0 to 5; a device has its own.
inline void set_schedule(unsigned seed) {
#if __has_include("simt_fiber.h")
  simt::seed = seed;
#else
  (void)seed;
#endif
}

/// While one lives, the shim runs work as late as it may (or as early), as a slow (or fast) device would.
struct LateDevice {
#if __has_include("simt_fiber.h")
  explicit LateDevice(bool late) { simt::late = late; }
  ~LateDevice() { simt::late = false; }
#else
  explicit LateDevice(bool) {}
#endif
};

/// Device memory with the content of a host vector.
template <class T>
class Upload {
 public:
  Upload() = default;
  Upload(const T* from, size_t count) : array_(count, "test data") {
    if (count) copy_to_device(array_.get(), from, count * sizeof(T), nullptr);
    synchronize(nullptr);
  }
  explicit Upload(const std::vector<T>& from) : Upload(from.data(), from.size()) {}
  T* get() const { return array_.get(); }
  std::vector<T> read() const {
    std::vector<T> to(array_.count());
    synchronize(nullptr);
    if (!to.empty()) copy_to_host(to.data(), array_.get(), to.size() * sizeof(T), nullptr);
    synchronize(nullptr);
    return to;
  }

 private:
  DeviceArray<T> array_;
};

}  // namespace chai::cuda
