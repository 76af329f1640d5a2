// The private primitives of the CPU backend, one table for each instruction set. In: float32 activations, weights and cache rows in their
// own element type. Out: float32. For every output there is one fixed order of additions, whatever the number of rows or the tiling, and
// it is the same on all instruction sets with fused multiply-add.
#pragma once
#include <cstdint>
#include <vector>

#include "../config.h"
#include "../element.h"

namespace chai::cpu {

/// y[m][n] = sum_k x[m][k] * weight[n][k]. The sum runs in 16 lanes (lane = k mod 16, ascending k), then in a fixed tree.
struct Product {
  const float* const* x = nullptr;  // [rows] pointers to [depth]
  float* const* y = nullptr;        // [rows] pointers to [columns]
  int rows = 0;
  const void* weight = nullptr;  // [columns x depth] of `type`
  Element type = Element::float32;
  int64_t stride = 0;  // elements between weight rows
  int columns = 0, depth = 0;
  int64_t ahead = 0;  // elements from a weight that is read to the one that is asked for meanwhile; 0: those of the next columns
};

/// out[m][c] += sum_j p[m][j] * v[j][c], j ascending.
struct WeightedSum {
  const float* p = nullptr;  // [rows x p_stride], the first `count` of each row used
  int64_t p_stride = 0;
  int rows = 0, count = 0;
  const void* v = nullptr;  // [count x width] of `type`
  Element type = Element::float32;
  int64_t v_stride = 0;  // elements between rows of v
  int width = 0;
  float* out = nullptr;  // [rows x width]
  int64_t out_stride = 0;
  int64_t ahead = 0;  // the same of v; for a single row only, and 0: nothing is asked for
};

/// Greatest score and sum of exp(score - greatest) over some keys.
struct SoftmaxState {
  float greatest = 0, sum = 0;
};

struct Kernels {
  const char* name;
  int tile_rows;  // rows that `product` and `weighted_sum` like to get at once

  /// scratch: product_scratch(depth) floats, 64-byte aligned.
  void (*product)(const Product& product, float* scratch);
  void (*weighted_sum)(const WeightedSum& sum);
  /// s[j] = exp(scale * s[j] - greatest) for j in [begin, end).
  SoftmaxState (*softmax)(float* s, int begin, int end, float scale);
  /// a = a * wa + b * wb
  void (*blend)(float* a, float wa, const float* b, float wb, int count);
  /// y = x / divisor
  void (*divide)(const float* x, float divisor, float* y, int count);
  /// x += y (+ bias unless null)
  void (*add)(float* x, const float* y, const float* bias, int count);
  /// y = x normalised (* weight) (+ bias); weight and bias may be null. y may be x.
  void (*norm)(NormKind kind, const float* x, const float* weight, const float* bias, float epsilon, float* y, int count);
  /// x = act(x) (* up unless null)
  void (*activate)(Activation activation, float* x, const float* up, int count);
  /// Rotates pairs (i, i + dim/2) of one head row by the angles whose cosines and sines are given, [dim/2] each.
  void (*rotate)(float* x, const float* cosine, const float* sine, int dim);
  void (*widen)(const void* from, Element type, float* to, int count);   // exact
  void (*narrow)(const float* from, Element type, void* to, int count);  // to nearest even
};

constexpr int lanes = 16;
constexpr int block_floats = 128 * 1024;  // activations that one block of rows may hold: half a megabyte, half of a usual L2 cache
constexpr int most_tile_columns = 8;

/// Floats between widened weight rows: an odd number of cache lines, so that rows of a tile do not fall into the same cache sets.
[[gnu::always_inline]] inline int64_t widened_stride(int depth) { return ((int64_t(depth) + lanes - 1) / lanes | 1) * lanes; }

/// Floats of scratch that `product` needs for sums of this depth.
[[gnu::always_inline]] inline int64_t product_scratch(int depth) { return widened_stride(depth) * most_tile_columns; }

/// Tables that this machine can run, slowest first; never empty.
std::vector<const Kernels*> usable_kernels();

extern const Kernels plain_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels, avx512_kernels;
#elif defined(__aarch64__)
extern const Kernels neon_kernels;
#endif

}  // namespace chai::cpu
