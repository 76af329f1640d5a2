// The CPU's vector code behind one table of functions, chosen once for the processor at hand. In and out: plain float32 arrays.
// Every function has one fixed order of additions, whatever the number of rows: a row's bits never depend on the rows beside it.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../element.h"

namespace chai::cpu {

struct Kernels {
  const char* name;
  /// y[m][n] = sum over k of x[m][k] * w[n][k]; w row-major in `type`. `scratch`: scratch_floats(columns) floats.
  void (*matmul)(const float* x, int64_t x_stride, int rows, const void* w, Element type, int64_t w_stride, int outputs, int columns,
                 float* y, int64_t y_stride, float* scratch);
  void (*widen)(const void* from, Element type, int count, float* to);
  void (*narrow)(const float* from, Element type, int count, void* to);
  /// One page of online softmax for one row: scores[0, 64) are scaled, masked to [low, high) and become probabilities relative to the
  /// new maximum. Updates maximum and sum; returns the factor that earlier sums and outputs must be scaled by.
  float (*softmax_page)(float* scores, float scale, int low, int high, float* maximum, float* sum);
  /// o[r][i] = o[r][i] * factor[r] + sum over j in [low, high) of p[r][j] * v[j][i], for `rows` rows. v: `type`, row-major.
  void (*mix_page)(const float* p, int64_t p_stride, const float* factor, int rows, int low, int high, const void* v, Element type,
                   int head_dim, float* o, int64_t o_stride);
  void (*scale)(float* x, float factor, int count);
  void (*add)(float* x, const float* y, int count);
  void (*rms_norm)(const float* x, const float* weight, float epsilon, int count, float* y);
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float epsilon, int count, float* y);
  void (*silu)(float* x, int count);
  void (*multiply)(float* x, const float* y, int count);
};

constexpr int widened_rows = 64;  // weight rows widened at once for a block of activation rows
inline size_t scratch_floats(int columns) { return size_t(widened_rows) * ((size_t(columns) + 15) / 16 * 16); }

/// The sets that this build holds and this processor runs, best first; never empty. `available_kernels(i)` is null past the end.
const Kernels* available_kernels(int index);

const Kernels& plain_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
const Kernels& neon_kernels();

}  // namespace chai::cpu
