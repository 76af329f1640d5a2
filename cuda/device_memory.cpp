// Owned device and pinned memory; see device_memory.h.
#include "device_memory.h"

#include "error.h"

namespace chai::cuda {
namespace {

std::string mebibytes(uint64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

}  // namespace

Memory allocate_shared(size_t bytes, const char* what) {
  void* memory = allocate_device(bytes);
  if (!memory) {
    uint64_t free_bytes = 0, total_bytes = 0;
    memory_of_device(free_bytes, total_bytes);
    throw Error(Code::out_of_memory, std::string(what) + " needs " + mebibytes(bytes) + " of GPU memory, " + mebibytes(free_bytes) +
                                         " of " + mebibytes(total_bytes) + " are free; lower cacheTokens or maxBatch, or free the device");
  }
  return Memory(memory, [](void* p) { free_device(p); });
}

Memory allocate_pinned_shared(size_t bytes, const char* what) {
  void* memory = allocate_pinned(bytes);
  if (!memory) throw Error(Code::out_of_memory, std::string(what) + " needs " + mebibytes(bytes) + " of page-locked host memory");
  return Memory(memory, [](void* p) { free_pinned(p); });
}

MatrixView view_of(const MatrixRef& matrix) {
  if (!matrix) return {};
  const auto& m = static_cast<const DeviceMatrix&>(*matrix);
  return {m.data.get(), m.stride, int32_t(m.rows), int32_t(m.columns)};
}

const float* vector_of(const MatrixRef& matrix) {
  return matrix ? static_cast<const float*>(static_cast<const DeviceMatrix&>(*matrix).data.get()) : nullptr;
}

}  // namespace chai::cuda
