// What cuda/cublas.cu calls of cuBLAS, for the emulated device: a library of its own, opened at run time. In: products by columns, as
// cuBLAS's documentation describes them. Out: a kernel on the handle's stream, or the status of a wrong call and a line on stderr. The
// workspace is overwritten; the kernel behind a product may begin before it, as behind any other.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdio>
#include <mutex>
#include <set>

namespace {

constexpr int success = 0, not_initialized = 1, alloc_failed = 3, invalid_value = 7, execution_failed = 13, not_supported = 15;
constexpr int float32_type = 0, float16_type = 2, bfloat16_type = 14, compute_float32 = 68;
constexpr int tile = 4, side = 16;  // of a thread's outputs, of a block's threads

struct Handle {
  cudaStream_t stream = nullptr;
  float* workspace = nullptr;
  size_t bytes = 0;
};
std::mutex mutex;
/// Never destroyed: what ends after main() destroys its handle then.
std::set<void*>& handles() {
  static auto* all = new std::set<void*>;
  return *all;
}
bool is_handle(void* handle) {
  const std::lock_guard hold(mutex);
  return handles().count(handle) > 0;
}
int refuse(int status, const char* call, const char* why) {
  std::fprintf(stderr, "ptx: %s: %s\n", call, why);
  return status;
}
/// A call that allocates nothing, but is refused while this thread records a graph.
bool records() {
  void* nothing = nullptr;
  return cudaMalloc(&nothing, 0) == cudaErrorStreamCaptureUnsupported;
}

/// A matrix of op(a) or op(b): element (outer, inner), the inner ones are multiplied and summed up.
struct Side {
  const void* data;
  int64_t outer, inner;
};
struct Product {
  Side a, b;
  void* c;
  int64_t c_stride;
  int m, n, k;
  float alpha, beta;
  float* workspace;
  size_t floats;  // of the workspace
};

__device__ float widened(float x) { return x; }
__device__ float widened(__half x) { return __half2float(x); }
__device__ float widened(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ void store(float* to, float x) { *to = x; }
__device__ void store(__half* to, float x) { *to = __float2half_rn(x); }
__device__ void store(__nv_bfloat16* to, float x) { *to = __float2bfloat16_rn(x); }

template <class T, class C>
__global__ void __launch_bounds__(side* side) cublas_product(Product p) {
  const int first_i = int(blockIdx.x * side + threadIdx.x) * tile, first_j = int(blockIdx.y * side + threadIdx.y) * tile;
  if (first_i >= p.m || first_j >= p.n) return;
  const T *a = static_cast<const T*>(p.a.data), *b = static_cast<const T*>(p.b.data);
  float sum[tile][tile] = {};
  for (int t = 0; t < p.k; ++t) {
    float of_a[tile], of_b[tile];
#pragma unroll
    for (int i = 0; i < tile; ++i) {
      of_a[i] = widened(a[min(first_i + i, p.m - 1) * p.a.outer + t * p.a.inner]);
      of_b[i] = widened(b[min(first_j + i, p.n - 1) * p.b.outer + t * p.b.inner]);
    }
#pragma unroll
    for (int i = 0; i < tile; ++i)
#pragma unroll
      for (int j = 0; j < tile; ++j) sum[i][j] = fmaf(of_a[i], of_b[j], sum[i][j]);
  }
  const size_t thread = (size_t(blockIdx.y * gridDim.x + blockIdx.x) * side + threadIdx.y) * side + threadIdx.x;
  if (thread < p.floats) p.workspace[thread] = sum[0][0];
#pragma unroll
  for (int j = 0; j < tile; ++j)
#pragma unroll
    for (int i = 0; i < tile; ++i) {
      if (first_i + i >= p.m || first_j + j >= p.n) continue;
      C* const to = static_cast<C*>(p.c) + first_i + i + (first_j + j) * p.c_stride;
      store(to, p.alpha * sum[i][j] + (p.beta != 0 ? p.beta * widened(*to) : 0.0f));
    }
}

template <class T, class C>
int start(Product p, cudaStream_t stream) {
  constexpr unsigned covered = tile * side;
  void* arguments[] = {&p};
  const dim3 grid((unsigned(p.m) + covered - 1) / covered, (unsigned(p.n) + covered - 1) / covered);
  const auto* kernel = reinterpret_cast<const void*>(cublas_product<T, C>);
  return cudaLaunchKernel(kernel, grid, dim3(side, side), arguments, 0, stream) == cudaSuccess ? success : execution_failed;
}

bool is_transpose(int operation) { return operation >= 0 && operation <= 2; }  // plain, transposed, and conjugated as well
bool is_algorithm(int algorithm) { return (algorithm >= -1 && algorithm <= 23) || (algorithm >= 99 && algorithm <= 115); }

}  // namespace

#define EXPORTED extern "C" __attribute__((visibility("default"))) int

EXPORTED cublasCreate_v2(void** handle) {
  if (!handle) return refuse(invalid_value, "cublasCreate", "no place for the handle");
  if (records()) return refuse(alloc_failed, "cublasCreate", "it allocates, and this thread records a graph");
  const std::lock_guard hold(mutex);
  *handle = new Handle;
  handles().insert(*handle);
  return success;
}
EXPORTED cublasDestroy_v2(void* handle) {
  if (!is_handle(handle)) return refuse(not_initialized, "cublasDestroy", "no handle");
  cudaDeviceSynchronize();
  const std::lock_guard hold(mutex);
  handles().erase(handle);
  delete static_cast<Handle*>(handle);
  return success;
}
EXPORTED cublasGetVersion_v2(void* handle, int* version) {
  if (!is_handle(handle)) return refuse(not_initialized, "cublasGetVersion", "no handle");
  if (!version) return refuse(invalid_value, "cublasGetVersion", "no place for the version");
  *version = 130100;
  return success;
}
/// The stream brings the library's own workspace along.
EXPORTED cublasSetStream_v2(void* handle, void* stream) {
  if (!is_handle(handle)) return refuse(not_initialized, "cublasSetStream", "no handle");
  *static_cast<Handle*>(handle) = {static_cast<cudaStream_t>(stream), nullptr, 0};
  return success;
}
EXPORTED cublasSetWorkspace_v2(void* handle, void* memory, size_t bytes) {
  if (!is_handle(handle)) return refuse(not_initialized, "cublasSetWorkspace", "no handle");
  if ((!memory && bytes > 0) || reinterpret_cast<uintptr_t>(memory) % 256 != 0)
    return refuse(invalid_value, "cublasSetWorkspace", "a workspace begins at a multiple of 256 bytes");
  static_cast<Handle*>(handle)->workspace = static_cast<float*>(memory);
  static_cast<Handle*>(handle)->bytes = bytes;
  return success;
}
EXPORTED cublasSetMathMode(void* handle, int mode) {
  if (!is_handle(handle)) return refuse(not_initialized, "cublasSetMathMode", "no handle");
  if ((mode & ~16) < 0 || (mode & ~16) > 3) return refuse(invalid_value, "cublasSetMathMode", "no such mode");
  return success;
}

/// c[m x n] = alpha * op(a)[m x k] * op(b)[k x n] + beta * c, all matrices by columns. Scalars lie in host memory.
EXPORTED cublasGemmEx(void* handle, int transpose_a, int transpose_b, int m, int n, int k, const void* alpha, const void* a, int a_type,
                      int a_stride, const void* b, int b_type, int b_stride, const void* beta, void* c, int c_type, int c_stride,
                      int compute_type, int algorithm) {
  const auto wrong = [](const char* why, int status = invalid_value) { return refuse(status, "cublasGemmEx", why); };
  if (!is_handle(handle)) return wrong("no handle", not_initialized);
  if (!is_transpose(transpose_a) || !is_transpose(transpose_b) || !is_algorithm(algorithm)) return wrong("no such operation");
  if (m < 0 || n < 0 || k < 0) return wrong("a negative size");
  const auto least = [](int rows) { return rows > 1 ? rows : 1; };
  if (a_stride < least(transpose_a ? k : m) || b_stride < least(transpose_b ? n : k) || c_stride < least(m))
    return wrong("a leading dimension that is less than the rows");
  if (compute_type != compute_float32 || a_type != b_type || (a_type != float16_type && a_type != bfloat16_type) ||
      (c_type != a_type && c_type != float32_type))
    return wrong("types that are not known here", not_supported);
  if (!alpha || !beta) return wrong("no scalars");
  if (m == 0 || n == 0) return success;
  if (!c || (k > 0 && (!a || !b))) return wrong("no matrix");
  const uintptr_t c_bytes = c_type == float32_type ? 4 : 2;
  if (reinterpret_cast<uintptr_t>(a) % 2 || reinterpret_cast<uintptr_t>(b) % 2 || reinterpret_cast<uintptr_t>(c) % c_bytes)
    return wrong("a matrix that begins within an element");
  if (records()) return wrong("this thread records a graph; chai asks no library then");
  const Handle& own = *static_cast<Handle*>(handle);
  Product p{};
  p.a = transpose_a ? Side{a, a_stride, 1} : Side{a, 1, a_stride};
  p.b = transpose_b ? Side{b, 1, b_stride} : Side{b, b_stride, 1};
  p.c = c, p.c_stride = c_stride, p.m = m, p.n = n, p.k = k;
  p.alpha = *static_cast<const float*>(alpha), p.beta = *static_cast<const float*>(beta);
  p.workspace = own.workspace, p.floats = own.bytes / sizeof(float);
  if (a_type == float16_type) return c_type == float32_type ? start<__half, float>(p, own.stream) : start<__half, __half>(p, own.stream);
  return c_type == float32_type ? start<__nv_bfloat16, float>(p, own.stream) : start<__nv_bfloat16, __nv_bfloat16>(p, own.stream);
}
