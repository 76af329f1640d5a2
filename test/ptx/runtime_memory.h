// What the files of the emulated runtime share. Out: how much memory the device has; the rest of the reserved memory is for pinned memory.
#pragma once
#include <cstddef>

namespace ptx {

size_t device_bytes();
size_t device_bytes_used();

}  // namespace ptx
