// What every call of the emulated runtime goes through. In: the call's name and body. Out: its error, remembered as the thread's last one;
// a line on stderr for every refusal; the error that ends all work on the device.
#pragma once
#include <cuda_runtime_api.h>

#include <mutex>
#include <string>

namespace ptx {

/// Thrown by a call's body: it fails, the device goes on.
struct Refusal {
  cudaError_t error;
  std::string why;
};

/// One call at a time, of all threads: work runs on the thread that waits for it.
std::recursive_mutex& one_call();

/// A launched kernel that ran, and whether its blocks began before the kernel before it ran.
void count_launch(const std::string& kernel, bool begun_early);

namespace detail {
cudaError_t guarded(const char* name, void (*body)(void*), void* context, bool touches_device);
}

/// A call that uses the device: after a fault all of them give its error.
template <class Body>
cudaError_t device_call(const char* name, Body body) {
  return detail::guarded(
      name, [](void* context) { (*static_cast<Body*>(context))(); }, &body, true);
}
/// A call that a failed device answers as well.
template <class Body>
cudaError_t host_call(const char* name, Body body) {
  return detail::guarded(
      name, [](void* context) { (*static_cast<Body*>(context))(); }, &body, false);
}

}  // namespace ptx
