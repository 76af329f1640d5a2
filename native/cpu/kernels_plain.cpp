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

/// Four parts of four lanes: what the vector registers of any machine hold.
struct V {
  using Part = float __attribute__((vector_size(16)));
  static constexpr int parts = 4, tile_rows = 2, tile_columns = 1, vector_columns = 2, sum_columns = 1;
  static constexpr bool slow_conversion = true;
  Part part[parts];

  template <class T>
  static Part load_part(const T* p) {
    return Part{value_of(p[0]), value_of(p[1]), value_of(p[2]), value_of(p[3])};
  }
  static Part load_part(const float* p) {
    Part value;
    __builtin_memcpy(&value, p, sizeof(value));
    return value;
  }
  static Part set_part(float value) { return Part{value, value, value, value}; }
  static Part keep(Part value) { return value; }
  static void fma(Part& sum, const Part& a, const Part& b) { sum += a * b; }

  static V zero() { return set(0); }
  static V set(float value) { return {{set_part(value), set_part(value), set_part(value), set_part(value)}}; }
  template <class T>
  static V load(const T* p) {
    return {{load_part(p), load_part(p + 4), load_part(p + 8), load_part(p + 12)}};
  }
  template <class T>
  static V load(const T* p, int count) {
    T some[lanes] = {};
    __builtin_memcpy(some, p, size_t(count) * sizeof(T));
    return load(static_cast<const T*>(some));
  }
  void store(float* p) const { __builtin_memcpy(p, part, sizeof(part)); }
  void store(float* p, int count) const { __builtin_memcpy(p, part, size_t(count) * sizeof(float)); }
  void store(Half* p) const {
    for (int i = 0; i < lanes; ++i) p[i].bits = float16_of_float(part[i / 4][i % 4]);
  }
  void fma(const V& a, const V& b) {
    for (int h = 0; h < parts; ++h) fma(part[h], a.part[h], b.part[h]);
  }
  float sum() const {
    const Part t = (part[0] + part[2]) + (part[1] + part[3]);
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
