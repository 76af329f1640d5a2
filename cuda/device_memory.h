// Owned device and pinned memory. In: sizes and what they are for. Out: buffers freed with their owner; out_of_memory with need and free.
#pragma once
#include <memory>

#include "backend.h"
#include "runtime.h"

namespace chai::cuda {

/// Not initialised. Throws out_of_memory naming what, need and free.
Memory allocate_shared(size_t bytes, const char* what);

/// Device memory of `count` elements of T; not initialised.
template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  DeviceArray(size_t count, const char* what) : memory_(allocate_shared(count * sizeof(T), what)), count_(count) {}
  T* get() const { return static_cast<T*>(memory_.get()); }
  size_t count() const { return count_; }
  explicit operator bool() const { return memory_ != nullptr; }

 private:
  Memory memory_;
  size_t count_ = 0;
};

/// Page-locked host memory: copies from and to it run asynchronously.
template <class T>
class PinnedArray {
 public:
  PinnedArray() = default;
  PinnedArray(size_t count, const char* what) : memory_(pinned(count * sizeof(T), what)), count_(count) {}
  T* get() const { return static_cast<T*>(memory_.get()); }
  size_t count() const { return count_; }

 private:
  static Memory pinned(size_t bytes, const char* what);
  Memory memory_;
  size_t count_ = 0;
};

Memory allocate_pinned_shared(size_t bytes, const char* what);
template <class T>
Memory PinnedArray<T>::pinned(size_t bytes, const char* what) {
  return allocate_pinned_shared(bytes, what);
}

/// A prepared weight. Matrices are in the compute type, rows `stride` elements apart (a multiple of 8, the tail zero), 256-byte aligned;
/// one-row tensors (norms, biases) are float32.
struct DeviceMatrix final : Matrix {
  Memory data;
  int64_t stride = 0;
  Element type = Element::float16;
};

/// A DeviceMatrix as kernels see it.
struct MatrixView {
  const void* data = nullptr;  // null: the model has none
  int64_t stride = 0;
  int32_t rows = 0, columns = 0;
};
MatrixView view_of(const MatrixRef& matrix);
/// A one-row tensor, or null.
const float* vector_of(const MatrixRef& matrix);

/// Elements between two rows of an activation `width` wide.
constexpr int pitch_of(int width) { return (width + 7) / 8 * 8; }

}  // namespace chai::cuda
