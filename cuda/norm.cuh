// Norms of rows by one block. In: float32 rows [width], weights and biases [width] float32. Out: normalised rows with a zero tail up to
// `pitch`, in the compute type (what products read) or in float32 (norms placed after a residual sum).
#pragma once
#include "dev.cuh"
#include "device_memory.h"

namespace chai::cuda {

struct NormView {
  const float* weight = nullptr;  // null: rows pass unchanged
  const float* bias = nullptr;    // may be null
  float epsilon = 0;
  bool centred = false;  // layer norm; else root mean square
};

inline NormView view_of(const Norm& norm, const Config& config) {
  return {vector_of(norm.weight), vector_of(norm.bias), config.norm_epsilon, config.norm == NormKind::layer};
}

constexpr int norm_threads = 256;

/// Sums each of the values over the block in an order that depends on nothing but the thread. scratch: [count * 32] floats, free again
/// after the call.
template <int count>
__device__ __forceinline__ void sum_over_block(float (&values)[count], float* scratch) {
  const int lane = int(threadIdx.x) & 31, warp = int(threadIdx.x) >> 5, warps = int(blockDim.x) >> 5;
#pragma unroll
  for (int r = 0; r < count; ++r) {
    const float sum = dev::sum_over_lanes(values[r]);
    if (lane == 0) scratch[r * 32 + warp] = sum;
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < count; ++r) {
    values[r] = 0;
    for (int w = 0; w < warps; ++w) values[r] += scratch[r * 32 + w];
  }
  __syncthreads();
}

__device__ __forceinline__ void store4(float* to, const float (&values)[4]) {
  *reinterpret_cast<float4*>(to) = make_float4(values[0], values[1], values[2], values[3]);
}
template <class T>
__device__ __forceinline__ void store4(T* to, const float (&values)[4]) {
  *reinterpret_cast<uint2*>(to) = make_uint2(dev::pack2<T>(values[0], values[1]), dev::pack2<T>(values[2], values[3]));
}

/// Mean and 1 / deviation of `count` rows; (0, 1) without a norm. Rows that are null count as zeros.
template <int count>
__device__ __forceinline__ void moments(const float* const (&x)[count], const NormView& norm, int width, float* scratch,
                                        float (&mean)[count], float (&factor)[count]) {
#pragma unroll
  for (int r = 0; r < count; ++r) mean[r] = 0, factor[r] = norm.weight ? 0.0f : 1.0f;
  if (!norm.weight) return;
  const auto sums = [&](float(&into)[count], bool squares) {
    for (int i = int(threadIdx.x) * 4; i < width; i += int(blockDim.x) * 4) {
#pragma unroll
      for (int r = 0; r < count; ++r) {
        if (!x[r]) continue;
        const float4 four = *reinterpret_cast<const float4*>(x[r] + i);
        const float values[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float v = i + j < width ? values[j] - mean[r] : 0.0f;
          into[r] += squares ? v * v : v;
        }
      }
    }
    sum_over_block(into, scratch);
  };
  if (norm.centred) {
    float totals[count] = {};
    sums(totals, false);
#pragma unroll
    for (int r = 0; r < count; ++r) mean[r] = totals[r] / float(width);
  }
  sums(factor, true);
#pragma unroll
  for (int r = 0; r < count; ++r) factor[r] = 1.0f / sqrtf(factor[r] / float(width) + norm.epsilon);
}

/// to[r] = norm(x[r]), r < count, by the whole block. x[r]: [pitch] float32 with a zero tail, or null for a row of zeros. to[r] may be
/// x[r]. scratch: [count * 32] floats of shared memory. The caller synchronises before `to` is read.
template <int count, class Out>
__device__ __forceinline__ void normalise_rows(const float* const (&x)[count], Out* const (&to)[count], const NormView& norm, int width,
                                               int pitch, float* scratch) {
  float mean[count], factor[count];
  moments(x, norm, width, scratch, mean, factor);
  for (int i = int(threadIdx.x) * 4; i < pitch; i += int(blockDim.x) * 4) {
    float weight[4] = {1, 1, 1, 1}, bias[4] = {};
    if (norm.weight) {
      const float4 w = *reinterpret_cast<const float4*>(norm.weight + i);
      weight[0] = w.x, weight[1] = w.y, weight[2] = w.z, weight[3] = w.w;
    }
    if (norm.bias) {
      const float4 b = *reinterpret_cast<const float4*>(norm.bias + i);
      bias[0] = b.x, bias[1] = b.y, bias[2] = b.z, bias[3] = b.w;
    }
#pragma unroll
    for (int r = 0; r < count; ++r) {
      float out[4] = {};
      if (x[r]) {
        const float4 four = *reinterpret_cast<const float4*>(x[r] + i);
        const float values[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) out[j] = i + j < width ? (values[j] - mean[r]) * factor[r] * weight[j] + bias[j] : 0.0f;
      }
      store4(to[r] + i, out);
    }
  }
}

}  // namespace chai::cuda
