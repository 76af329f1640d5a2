// The vector and 16-bit types of the CUDA headers, for a host compiler; conversions through native/element.h.
#pragma once
#include <bit>
#include <cstdint>

#include "element.h"

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(8) int2 {
  int32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(16) int4 {
  int32_t x, y, z, w;
};
inline float2 make_float2(float a, float b) { return {a, b}; }
inline float4 make_float4(float a, float b, float c, float d) { return {a, b, c, d}; }
inline uint2 make_uint2(uint32_t a, uint32_t b) { return {a, b}; }
inline uint4 make_uint4(uint32_t a, uint32_t b, uint32_t c, uint32_t d) { return {a, b, c, d}; }

struct __half {
  uint16_t bits;
};
struct __nv_bfloat16 {
  uint16_t bits;
};
inline float float_of(__half h) {
#ifdef __F16C__
  return static_cast<float>(std::bit_cast<_Float16>(h.bits));
#else
  return chai::float_of_float16(h.bits);
#endif
}
inline float float_of(__nv_bfloat16 b) { return chai::float_of_bfloat16(b.bits); }
inline float __half2float(__half h) { return float_of(h); }
inline float __bfloat162float(__nv_bfloat16 b) { return float_of(b); }
inline __half __float2half_rn(float f) { return {chai::float16_of_float(f)}; }
inline __nv_bfloat16 __float2bfloat16_rn(float f) { return {chai::bfloat16_of_float(f)}; }
