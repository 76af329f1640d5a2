// cuBLAS where the machine has it: opened at run time, never linked. In: a large product, row-major. Out: its result on a stream; or false,
// and then our own kernels (gemm.cu) do it. The library is asked for nothing but plain products: whatever is fused in our kernels before
// or after them is a pass of its own (library_rows.cuh).
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "device_memory.h"

namespace chai::cuda {

/// The functions in use, as cublas_v2.h declares them with its handles as void*, its enumerations as int. A test puts its own here.
struct CublasCalls {
  int (*create)(void** handle) = nullptr;
  int (*destroy)(void* handle) = nullptr;
  int (*version)(void* handle, int* version) = nullptr;
  int (*set_stream)(void* handle, void* stream) = nullptr;
  int (*set_workspace)(void* handle, void* memory, size_t bytes) = nullptr;
  int (*set_math_mode)(void* handle, int mode) = nullptr;
  int (*gemm)(void* handle, int transpose_a, int transpose_b, int m, int n, int k, const void* alpha, const void* a, int a_type,
              int a_stride, const void* b, int b_type, int b_stride, const void* beta, void* c, int c_type, int c_stride, int compute_type,
              int algorithm) = nullptr;
};

/// Why there is no library to ask.
enum class CublasState : uint8_t { ready, switched_off, not_installed, lacks_function, other_version, no_memory, call_failed };

/// to[rows][columns] = from[rows][width] * weight[columns][width]^T, or with `add` to += that. Strides in elements.
struct LibraryProduct {
  const void* from = nullptr;  // `type`
  const void* weight = nullptr;
  void* to = nullptr;  // `type`, or float32 with `floats`
  int64_t from_stride = 0, weight_stride = 0, to_stride = 0;
  int32_t rows = 0, columns = 0, width = 0;
  Element type = Element::float16;
  bool floats = false, add = false;
};

/// Products of fewer rows are not worth the passes around them.
constexpr int least_library_rows = 256;
/// Where other rows of the step go through our own kernels, the weights are read twice.
constexpr int least_library_rows_beside_others = 384;

/// One handle, for the device that is current when it is made, used from one thread at a time.
class Cublas {
 public:
  /// The library of the machine; never null. Under the host shim there is none.
  static std::unique_ptr<Cublas> open(bool wanted, const DeviceFacts& device);
  /// The library `names` (the first that can be opened), with all functions; state() says what is wrong.
  static std::unique_ptr<Cublas> open(const std::vector<std::string>& names, const DeviceFacts& device);
  /// On functions of the caller's.
  Cublas(const CublasCalls& calls, const DeviceFacts& device);
  ~Cublas();
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;

  bool ready() const { return state_ == CublasState::ready; }
  CublasState state() const { return state_; }
  /// "cuBLAS 13.1.1", or why it is not used.
  const std::string& description() const { return description_; }

  /// False: not enqueued. A library that refuses once is not asked again. Not while a graph is recorded.
  bool multiply(const LibraryProduct& product, Stream stream);

  /// It is not asked again.
  void give_up(CublasState state, std::string why);

  /// Device bytes held.
  size_t bytes() const { return workspace_.count(); }

 private:
  Cublas(CublasState state, std::string description) : state_(state), description_(std::move(description)) {}
  void take_workspace(const DeviceFacts& device);
  bool take_stream(Stream stream);
  CublasState state_ = CublasState::ready;
  std::string description_;
  CublasCalls calls_;
  void* handle_ = nullptr;
  DeviceArray<unsigned char> workspace_;
  Stream stream_ = nullptr;
  bool has_stream_ = false;
};

}  // namespace chai::cuda
