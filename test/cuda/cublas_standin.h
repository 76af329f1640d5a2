// cuBLAS for tests. Under the host shim a stand-in that multiplies in double precision, straight from the meaning of the arguments, and
// counts; on a device the library of the machine. In: a device. Out: a Cublas to give to the operations under test.
#pragma once
#include <cstdio>
#include <memory>

#include "cublas.h"
#if !defined(__CUDACC__)
#include "simt_fiber.h"
#include "simt_types.h"
#endif

namespace chai::cuda {

#if !defined(__CUDACC__)
struct Standin {
  int products = 0;    // done so far
  int refuse_at = -1;  // the product that is refused, counted from now on; -1: none
  int create_status = 0, version = 120405;
  bool misused = false;  // a call that cuBLAS would not have taken, or that breaks a rule of ours
  void* stream = nullptr;
  bool has_stream = false, has_workspace = false, sums_in_float32 = false;
};
inline Standin& standin() {
  static Standin one;
  return one;
}

inline double standin_value(const void* from, int64_t at, int type) {
  if (type == 0) return static_cast<const float*>(from)[at];
  const uint16_t bits = static_cast<const uint16_t*>(from)[at];
  return type == 2 ? float_of_float16(bits) : float_of_bfloat16(bits);
}
inline void standin_store(void* to, int64_t at, int type, double value) {
  if (type == 0)
    static_cast<float*>(to)[at] = float(value);
  else
    static_cast<uint16_t*>(to)[at] = type == 2 ? float16_of_float(float(value)) : bfloat16_of_float(float(value));
}

/// c[m x n] = alpha * op(a) * op(b) + beta * c, all matrices by columns.
inline int standin_gemm(void* handle, int transpose_a, int transpose_b, int m, int n, int k, const void* alpha, const void* a, int a_type,
                        int a_stride, const void* b, int b_type, int b_stride, const void* beta, void* c, int c_type, int c_stride,
                        int compute_type, int algorithm) {
  Standin& s = standin();
  const bool strides = a_stride >= (transpose_a ? k : m) && b_stride >= (transpose_b ? n : k) && c_stride >= m;
  const bool types = a_type == b_type && (a_type == 2 || a_type == 14) && (c_type == 0 || c_type == a_type) && compute_type == 68;
  if (handle != &s || !strides || !types || algorithm != -1 || m <= 0 || n <= 0 || k <= 0) s.misused = true;
  if (simt::recording() || !s.has_stream || !s.has_workspace || !s.sums_in_float32) s.misused = true;
  if (s.misused) return 7;
  if (s.refuse_at == 0) return 15;
  if (s.refuse_at > 0) --s.refuse_at;
  ++s.products;
  const double scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
  simt::enqueue(s.stream, [=] {
    for (int j = 0; j < n; ++j)
      for (int i = 0; i < m; ++i) {
        double sum = 0;
        for (int t = 0; t < k; ++t) {
          const int64_t of_a = transpose_a ? t + int64_t(i) * a_stride : i + int64_t(t) * a_stride;
          const int64_t of_b = transpose_b ? j + int64_t(t) * b_stride : t + int64_t(j) * b_stride;
          sum += standin_value(a, of_a, a_type) * standin_value(b, of_b, b_type);
        }
        const int64_t at = i + int64_t(j) * c_stride;
        standin_store(c, at, c_type, scale * sum + (keep != 0 ? keep * standin_value(c, at, c_type) : 0));
      }
  });
  return 0;
}

inline CublasCalls standin_calls() {
  CublasCalls calls;
  calls.create = [](void** handle) {
    *handle = &standin();
    standin().has_stream = standin().has_workspace = standin().sums_in_float32 = false;
    return standin().create_status;
  };
  calls.destroy = [](void*) { return 0; };
  calls.version = [](void*, int* version) {
    *version = standin().version;
    return 0;
  };
  calls.set_stream = [](void*, void* stream) {
    standin().stream = stream;
    standin().has_stream = true, standin().has_workspace = false;  // as cuBLAS: a new stream brings its own workspace along
    return 0;
  };
  calls.set_workspace = [](void*, void* memory, size_t bytes) {
    standin().has_workspace = memory != nullptr && bytes >= (size_t{1} << 20);
    return 0;
  };
  calls.set_math_mode = [](void*, int mode) {
    standin().sums_in_float32 = mode == 16;
    return 0;
  };
  calls.gemm = standin_gemm;
  return calls;
}

inline std::unique_ptr<Cublas> test_library(const DeviceFacts& device) { return std::make_unique<Cublas>(standin_calls(), device); }
inline bool library_is_counted() { return true; }
inline int library_calls() { return standin().products; }
#else
inline std::unique_ptr<Cublas> test_library(const DeviceFacts& device) {
  std::unique_ptr<Cublas> library = Cublas::open(true, device);
  if (!library->ready()) std::printf("  our own kernels take its place: %s\n", library->description().c_str());
  return library;
}
inline bool library_is_counted() { return false; }
inline int library_calls() { return 0; }
#endif

}  // namespace chai::cuda
