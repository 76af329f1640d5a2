// Runs CUDA kernel source on the host: every CUDA thread is a fiber, a block runs on one OS thread, blocks share the cores.
// In: kernels compiled as C++ through cuda/dev.cuh. Out: their results, or an abort that names block and thread when lanes meet in
// different collectives, deadlock, or name exited lanes. Shared memory is poisoned with NaN; seeds shuffle the order of lanes and warps.
#pragma once
#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

#include "simt_fiber.h"
#include "simt_types.h"

// ---- language ----
#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __restrict__ __restrict
#define __grid_constant__
#define __shared__ static thread_local  // one block at a time on each OS thread
#define threadIdx (simt::current->fiber->thread)
#define blockIdx (simt::current->block)
#define blockDim (simt::current->block_size)
#define gridDim (simt::current->grid_size)
#define DEV_DYN_SMEM(T, name) T* name = reinterpret_cast<T*>(simt::current->shared)

inline void __syncthreads() { simt::block_barrier(); }
inline void __syncwarp(uint32_t mask = ~0u) { simt::collective(mask, "__syncwarp", nullptr, 0); }

namespace simt {
template <class T>
T from_lane(uint32_t mask, T value, unsigned lane, const char* what) {
  static_assert(sizeof(T) <= 8);
  const Slots slots = collective(mask, what, &value, sizeof(T));
  T result;
  std::memcpy(&result, slots[lane & 31], sizeof(T));
  return result;
}
}  // namespace simt

template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int with, int = 32) {
  return simt::from_lane(mask, value, simt::lane() ^ unsigned(with), "__shfl_xor_sync");
}
template <class T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32) {
  const unsigned w = unsigned(width);
  return simt::from_lane(mask, value, (simt::lane() & ~(w - 1)) | (unsigned(source) & (w - 1)), "__shfl_sync");
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, unsigned by, int width = 32) {
  const unsigned lane = simt::lane(), w = unsigned(width);
  return simt::from_lane(mask, value, lane % w + by < w ? lane + by : lane, "__shfl_down_sync");
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, unsigned by, int width = 32) {
  const unsigned lane = simt::lane(), w = unsigned(width);
  return simt::from_lane(mask, value, lane % w >= by ? lane - by : lane, "__shfl_up_sync");
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate) {
  const int value = predicate != 0;
  const simt::Slots slots = simt::collective(mask, "__ballot_sync", &value, sizeof value);
  uint32_t result = 0;
  for (int i = 0; i < 32; ++i) {
    int vote = 0;
    std::memcpy(&vote, slots[i], sizeof vote);
    if (mask >> i & 1) result |= uint32_t(vote) << i;
  }
  return result;
}
inline int __any_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

template <class T>
T atomicAdd(T* to, T value) {
  return std::atomic_ref<T>(*to).fetch_add(value);
}
template <class T>
T atomicMax(T* to, T value) {
  std::atomic_ref<T> at(*to);
  T old = at.load();
  while (old < value && !at.compare_exchange_weak(old, value)) {
  }
  return old;
}
template <class T>
T atomicOr(T* to, T bits) {
  return std::atomic_ref<T>(*to).fetch_or(bits);
}
template <class T>
T atomicExch(T* to, T value) {
  return std::atomic_ref<T>(*to).exchange(value);
}
template <class T>
T atomicCAS(T* to, T expected, T value) {
  std::atomic_ref<T>(*to).compare_exchange_strong(expected, value);
  return expected;
}
inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }

// ---- arithmetic ----
// Each rounded for itself: never fused into a multiply-add (the host is compiled with -ffp-contract=off).
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline uint32_t __float_as_uint(float x) { return std::bit_cast<uint32_t>(x); }
inline float __uint_as_float(uint32_t x) { return std::bit_cast<float>(x); }
inline int __popc(uint32_t x) { return std::popcount(x); }
inline int __ffs(int x) { return x ? std::countr_zero(uint32_t(x)) + 1 : 0; }
inline int __clz(int x) { return std::countl_zero(uint32_t(x)); }
using std::max;
using std::min;
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}

// ---- what dev.cuh writes as inline PTX for the device ----
namespace dev {

// A copy lands only at the wait that covers it (even seeds), so that a missing or too weak wait reads the poison; at once with odd seeds.
inline void copy_async(void* to, const void* from, unsigned bytes, bool ok) {
  if (reinterpret_cast<uintptr_t>(to) % bytes || (ok && reinterpret_cast<uintptr_t>(from) % bytes)) simt::die("misaligned cp.async", "");
  simt::PendingCopy copy{to, ok ? from : nullptr, bytes, simt::current->fiber->copy_group};
  if (simt::seed & 1)
    copy.land();
  else
    simt::current->fiber->copies.push_back(copy);
}
inline void cp_async16(void* to, const void* from, bool ok = true) { copy_async(to, from, 16, ok); }
inline void cp_async16_streaming(void* to, const void* from, bool ok = true) { copy_async(to, from, 16, ok); }
inline void cp_async4(void* to, const void* from, bool ok = true) { copy_async(to, from, 4, ok); }
inline void cp_async_commit() { ++simt::current->fiber->copy_group; }
template <int N>
void cp_async_wait() {
  simt::Fiber& fiber = *simt::current->fiber;
  std::erase_if(fiber.copies, [&](const simt::PendingCopy& copy) {
    if (copy.group + N >= fiber.copy_group) return false;
    copy.land();
    return true;
  });
}

inline void ldmatrix(uint32_t (&r)[4], const void* p, bool transposed) {
  if (reinterpret_cast<uintptr_t>(p) % 16) simt::die("misaligned ldmatrix row", "");
  const simt::Slots slots = simt::collective(~0u, transposed ? "ldmatrix.trans" : "ldmatrix", &p, sizeof p);
  const unsigned lane = simt::lane();
  for (unsigned i = 0; i < 4; ++i) {
    uint16_t two[2];
    for (unsigned j = 0; j < 2; ++j) {
      const unsigned row = transposed ? 2 * (lane & 3) + j : lane >> 2, column = transposed ? lane >> 2 : 2 * (lane & 3) + j;
      const uint16_t* from;
      std::memcpy(&from, slots[i * 8 + row], sizeof from);
      std::memcpy(&two[j], from + column, 2);
    }
    std::memcpy(&r[i], two, 4);
  }
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void* p) { ldmatrix(r, p, false); }
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* p) { ldmatrix(r, p, true); }

template <class T>
void widen2(float* to, uint32_t word) {
  T halves[2];
  std::memcpy(halves, &word, 4);
  to[0] = float_of(halves[0]), to[1] = float_of(halves[1]);
}
template <class T>
void mma16816(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t in[6] = {a[0], a[1], a[2], a[3], b0, b1};
  const simt::Slots slots = simt::collective(~0u, "mma.m16n8k16", in, sizeof in);
  const unsigned g = simt::lane() >> 2, t = simt::lane() & 3;
  float rows[2][16], columns[2][16];
  for (unsigned k = 0; k < 4; ++k) {
    const auto* row = reinterpret_cast<const uint32_t*>(slots[g * 4 + k]);
    widen2<T>(rows[0] + 2 * k, row[0]), widen2<T>(rows[1] + 2 * k, row[1]);
    widen2<T>(rows[0] + 8 + 2 * k, row[2]), widen2<T>(rows[1] + 8 + 2 * k, row[3]);
    for (unsigned j = 0; j < 2; ++j) {
      const auto* column = reinterpret_cast<const uint32_t*>(slots[(2 * t + j) * 4 + k]);
      widen2<T>(columns[j] + 2 * k, column[4]), widen2<T>(columns[j] + 8 + 2 * k, column[5]);
    }
  }
  for (int k = 0; k < 16; ++k)
    for (int i = 0; i < 4; ++i) c[i] += rows[i / 2][k] * columns[i % 2][k];
}

inline uint4 load_streaming(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % 16) simt::die("misaligned 16-byte load", "");
  uint4 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void prefetch_l2(const void*) {}
inline void wait_for_previous_kernel() {}
inline void let_next_kernel_start() {}
inline float2 floats_of_halves(uint32_t word) {
  __half halves[2];
  std::memcpy(halves, &word, sizeof word);
  return make_float2(__half2float(halves[0]), __half2float(halves[1]));
}
inline float exp2_fast(float x) { return std::exp2(x); }

}  // namespace dev

#include "simt_hopper.h"
