// A weight on its way to the device. In: a tensor of a file, in any element type. Out: a DeviceMatrix in the compute type.
#pragma once
#include "device_memory.h"

namespace chai::cuda {

/// Two page-locked buffers in turn, so that reading a part of a file overlaps the copy of the part before.
class Staging {
 public:
  static constexpr size_t bytes = size_t{8} << 20;  // of each

  explicit Staging(Stream stream);
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  /// The other buffer, once its copy has ended.
  std::byte* next();
  /// Enqueues the copy of the buffer that `next` gave.
  void send(std::byte* to, size_t count);

 private:
  struct Side {
    PinnedArray<std::byte> buffer;
    Event copied = nullptr;
    bool used = false;
  };
  Stream stream_;
  Side sides_[2];
  int turn_ = 0;
};

/// Throws out_of_memory, and whatever source.read throws; nothing stays allocated then.
MatrixRef upload_matrix(const TensorSource& source, Element compute, Staging& staging);

}  // namespace chai::cuda
