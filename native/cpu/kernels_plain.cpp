// Kernels in portable C++, for machines without a vector instruction set that we know; see kernels.h. Multiply and add round separately
// here, so results differ in the last bits from the other tables.
#include <cstddef>

#include "kernels.h"

namespace chai::cpu {
namespace {

struct Half {
  uint16_t bits;
};
struct BrainHalf {
  uint16_t bits;
};

inline float value_of(float x) { return x; }
inline float value_of(Half x) { return float_of_float16(x.bits); }
inline float value_of(BrainHalf x) { return float_of_bfloat16(x.bits); }

struct V {
  static constexpr int tile_rows = 2, tile_columns = 1, vector_columns = 2, sum_columns = 1, direct_rows = 3;
  float v[lanes];

  static V zero() { return V{}; }
  static V set(float value) {
    V r;
    for (float& lane : r.v) lane = value;
    return r;
  }
  template <class T>
  static V load(const T* p) {
    V r;
    for (int i = 0; i < lanes; ++i) r.v[i] = value_of(p[i]);
    return r;
  }
  template <class T>
  static V load(const T* p, int count) {
    V r{};
    for (int i = 0; i < count; ++i) r.v[i] = value_of(p[i]);
    return r;
  }
  void store(float* p) const { store(p, lanes); }
  void store(float* p, int count) const {
    for (int i = 0; i < count; ++i) p[i] = v[i];
  }
  void store(Half* p) const {
    for (int i = 0; i < lanes; ++i) p[i].bits = float16_of_float(v[i]);
  }
  void fma(const V& a, const V& b) {
    for (int i = 0; i < lanes; ++i) v[i] += a.v[i] * b.v[i];
  }
  float sum() const {
    float t[lanes / 2];
    for (int i = 0; i < 8; ++i) t[i] = v[i] + v[i + 8];
    for (int i = 0; i < 4; ++i) t[i] += t[i + 4];
    return (t[0] + t[2]) + (t[1] + t[3]);
  }
  static void sum4(const V* sums, float* out) {
    for (int i = 0; i < 4; ++i) out[i] = sums[i].sum();
  }
};

}  // namespace
}  // namespace chai::cpu

#include "kernels_impl.h"
// after the vector type and the matrix kernels
#include "elementwise_impl.h"

namespace chai::cpu {
const Kernels plain_kernels = table("plain");
}  // namespace chai::cpu
