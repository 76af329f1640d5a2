// The kernels, written once over Vec (16 float lanes); included after one vec_*.h. Everything here has internal linkage, so that code
// compiled for one instruction set is never taken for another.
#pragma once
#include <cstring>

#include "kernels.h"

namespace {

using chai::Element;

constexpr float minus_infinity = -__builtin_inff();

struct OfFloat32 {
  using Type = float;
  static Vec load(const float* p) { return Vec::load(p); }
};
struct OfFloat16 {
  using Type = uint16_t;
  static Vec load(const uint16_t* p) { return Vec::load_float16(p); }
};
struct OfBfloat16 {
  using Type = uint16_t;
  static Vec load(const uint16_t* p) { return Vec::load_bfloat16(p); }
};

/// Up to 15 last elements, the missing lanes 0.
template <class Of>
Vec load_tail(const typename Of::Type* p, int count) {
  typename Of::Type padded[16] = {};
  std::memcpy(padded, p, sizeof(*p) * size_t(count));
  return Of::load(padded);
}

template <class Call>
void with_element(Element type, Call call) {
  switch (type) {
    case Element::float32: return call(OfFloat32{});
    case Element::float16: return call(OfFloat16{});
    case Element::bfloat16: return call(OfBfloat16{});
  }
}

// ---- matrix product ---------------------------------------------------------------------------------------------

/// R x C outputs. Each has one accumulator of 16 lanes, filled in ascending k, then summed by the tree of Vec::sum: the same
/// additions for every R and C.
template <int R, int C, class Of>
void tile(const float* x, int64_t x_stride, const typename Of::Type* w, int64_t w_stride, int columns, float* y, int64_t y_stride) {
  Vec sum[R][C];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) sum[r][c] = Vec::all(0);
  const int whole = columns & ~15;
  for (int k = 0; k < whole; k += 16) {
    Vec b[C];
    for (int c = 0; c < C; ++c) b[c] = Of::load(w + c * w_stride + k);
    for (int r = 0; r < R; ++r) {
      const Vec a = Vec::load(x + r * x_stride + k);
      for (int c = 0; c < C; ++c) sum[r][c] = Vec::fma(a, b[c], sum[r][c]);
    }
  }
  if (whole < columns)
    for (int r = 0; r < R; ++r) {
      const Vec a = load_tail<OfFloat32>(x + r * x_stride + whole, columns - whole);
      for (int c = 0; c < C; ++c) sum[r][c] = Vec::fma(a, load_tail<Of>(w + c * w_stride + whole, columns - whole), sum[r][c]);
    }
  for (int r = 0; r < R; ++r) {
    int c = 0;
    for (; c + 4 <= C; c += 4) Vec::sum4(&sum[r][c], y + r * y_stride + c);
    for (; c < C; ++c) y[r * y_stride + c] = sum[r][c].sum();
  }
}

/// All outputs of R rows of x, C columns at a time.
template <int R, int C, class Of>
void strip(const float* x, int64_t x_stride, const typename Of::Type* w, int64_t w_stride, int outputs, int columns, float* y,
           int64_t y_stride) {
  int n = 0;
  for (; n + C <= outputs; n += C) tile<R, C, Of>(x, x_stride, w + n * w_stride, w_stride, columns, y + n, y_stride);
  for (; n < outputs; ++n) tile<R, 1, Of>(x, x_stride, w + n * w_stride, w_stride, columns, y + n, y_stride);
}

template <class Of>
void few_rows(const float* x, int64_t x_stride, int rows, const typename Of::Type* w, int64_t w_stride, int outputs, int columns, float* y,
              int64_t y_stride) {
  int m = 0;
  for (; m + 4 <= rows; m += 4)
    strip<4, Vec::tile_columns, Of>(x + m * x_stride, x_stride, w, w_stride, outputs, columns, y + m * y_stride, y_stride);
  for (; m + 2 <= rows; m += 2) strip<2, 4, Of>(x + m * x_stride, x_stride, w, w_stride, outputs, columns, y + m * y_stride, y_stride);
  if (m < rows) strip<1, 8, Of>(x + m * x_stride, x_stride, w, w_stride, outputs, columns, y + m * y_stride, y_stride);
}

template <class Of>
void widen_row(const typename Of::Type* from, int count, float* to) {
  int i = 0;
  for (; i + 16 <= count; i += 16) Of::load(from + i).store(to + i);
  if (i == count) return;
  float padded[16];
  load_tail<Of>(from + i, count - i).store(padded);
  std::memcpy(to + i, padded, sizeof(float) * size_t(count - i));
}

void many_rows(const float* x, int64_t x_stride, int rows, const float* w, int64_t w_stride, int outputs, int columns, float* y,
               int64_t y_stride) {
  constexpr int R = Vec::tile_rows, C = Vec::tile_columns;
  int n = 0;
  for (; n < outputs; n += C) {  // C weight rows stay in the first-level cache while all rows of x pass
    const int width = outputs - n < C ? outputs - n : C;
    const float* tile_w = w + n * w_stride;
    int m = 0;
    for (; m + R <= rows && width == C; m += R)
      tile<R, C, OfFloat32>(x + m * x_stride, x_stride, tile_w, w_stride, columns, y + m * y_stride + n, y_stride);
    few_rows<OfFloat32>(x + m * x_stride, x_stride, rows - m, tile_w, w_stride, width, columns, y + m * y_stride + n, y_stride);
  }
}

void matmul(const float* x, int64_t x_stride, int rows, const void* w, Element type, int64_t w_stride, int outputs, int columns, float* y,
            int64_t y_stride, float* scratch) {
  constexpr int row_block = 48;  // of x: columns x 48 floats are walked once per C weight rows, from the second-level cache
  with_element(type, [&](auto of) {
    using Of = decltype(of);
    const auto* weights = static_cast<const typename Of::Type*>(w);
    if (rows < 8) return few_rows<Of>(x, x_stride, rows, weights, w_stride, outputs, columns, y, y_stride);
    const int64_t stride = (int64_t(columns) + 15) / 16 * 16;
    for (int n = 0; n < outputs; n += chai::cpu::widened_rows) {
      const int count = outputs - n < chai::cpu::widened_rows ? outputs - n : chai::cpu::widened_rows;
      for (int i = 0; i < count; ++i) widen_row<Of>(weights + (n + i) * w_stride, columns, scratch + i * stride);
      for (int m = 0; m < rows; m += row_block)
        many_rows(x + m * x_stride, x_stride, rows - m < row_block ? rows - m : row_block, scratch, stride, count, columns,
                  y + m * y_stride + n, y_stride);
    }
  });
}

// ---- element types ----------------------------------------------------------------------------------------------

void widen(const void* from, Element type, int count, float* to) {
  with_element(type, [&](auto of) {
    using Of = decltype(of);
    widen_row<Of>(static_cast<const typename Of::Type*>(from), count, to);
  });
}

uint16_t round_to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t((bits >> 16) | 0x40);
  return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

void narrow(const float* from, Element type, int count, void* to) {
  if (type == Element::float32) {
    std::memcpy(to, from, sizeof(float) * size_t(count));
    return;
  }
  auto* half = static_cast<uint16_t*>(to);
  if (type == Element::bfloat16) {
    for (int i = 0; i < count; ++i) half[i] = round_to_bfloat16(from[i]);
    return;
  }
  int i = 0;
  for (; i + 16 <= count; i += 16) Vec::load(from + i).store_float16(half + i);
  if (i == count) return;
  uint16_t padded[16];
  load_tail<OfFloat32>(from + i, count - i).store_float16(padded);
  std::memcpy(half + i, padded, sizeof(uint16_t) * size_t(count - i));
}

// ---- attention --------------------------------------------------------------------------------------------------

/// exp(x) for x <= about 88, within 2 units in the last place; 0 below -87.
Vec exponential(Vec x) {
  constexpr float coefficients[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  const Vec clamped = Vec::max(x, Vec::all(-88)), n = Vec::round(clamped * Vec::all(1.44269504f));
  const Vec r = Vec::fma(n, Vec::all(2.12194440e-4f), Vec::fma(n, Vec::all(-0.693359375f), clamped));  // ln 2 in two parts
  Vec p = Vec::all(1.0f / 5040);
  for (const float c : coefficients) p = Vec::fma(p, r, Vec::all(c));
  return Vec::zero_below(x, -87, Vec::scale_by_power(p, n));
}

float softmax_page(float* scores, float scale, int low, int high, float* maximum, float* sum) {
  for (int j = 0; j < low; ++j) scores[j] = minus_infinity;
  for (int j = high; j < 64; ++j) scores[j] = minus_infinity;
  Vec s[4];
  Vec most = Vec::all(*maximum);
  for (int i = 0; i < 4; ++i) {
    s[i] = Vec::load(scores + 16 * i) * Vec::all(scale);
    most = Vec::max(most, s[i]);
  }
  const float top = most.largest();
  Vec total = Vec::all(0);
  for (int i = 0; i < 4; ++i) {
    s[i] = exponential(s[i] - Vec::all(top));
    s[i].store(scores + 16 * i);
    total = total + s[i];
  }
  float factors[16];
  exponential(Vec::all(*maximum - top)).store(factors);  // first page: maximum is -infinity, the factor 0
  const float factor = *maximum == minus_infinity ? 0.0f : factors[0];
  *maximum = top;
  *sum = *sum * factor + total.sum();
  return factor;
}

/// R rows x C vectors of 16 columns of the output.
template <int R, int C, class Of>
void mix_tile(const float* p, int64_t p_stride, const float* factor, int low, int high, const typename Of::Type* v, int64_t v_stride, float* o,
              int64_t o_stride) {
  Vec sum[R][C];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) sum[r][c] = Vec::load(o + r * o_stride + 16 * c) * Vec::all(factor[r]);
  for (int j = low; j < high; ++j) {
    Vec b[C];
    for (int c = 0; c < C; ++c) b[c] = Of::load(v + j * v_stride + 16 * c);
    for (int r = 0; r < R; ++r) {
      const Vec a = Vec::all(p[r * p_stride + j]);
      for (int c = 0; c < C; ++c) sum[r][c] = Vec::fma(a, b[c], sum[r][c]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) sum[r][c].store(o + r * o_stride + 16 * c);
}

/// The last columns of a head whose size is no multiple of 16.
template <class Of>
void mix_tail(const float* p, float factor, int low, int high, const typename Of::Type* v, int64_t v_stride, int count, float* o) {
  Vec sum = load_tail<OfFloat32>(o, count) * Vec::all(factor);
  for (int j = low; j < high; ++j) sum = Vec::fma(Vec::all(p[j]), load_tail<Of>(v + j * v_stride, count), sum);
  float padded[16];
  sum.store(padded);
  std::memcpy(o, padded, sizeof(float) * size_t(count));
}

template <int R, class Of>
void mix_rows(const float* p, int64_t p_stride, const float* factor, int low, int high, const typename Of::Type* v, int head_dim, float* o,
              int64_t o_stride) {
  int i = 0;
  for (; i + 64 <= head_dim; i += 64) mix_tile<R, 4, Of>(p, p_stride, factor, low, high, v + i, head_dim, o + i, o_stride);
  for (; i + 16 <= head_dim; i += 16) mix_tile<R, 1, Of>(p, p_stride, factor, low, high, v + i, head_dim, o + i, o_stride);
  if (i == head_dim) return;
  for (int r = 0; r < R; ++r) mix_tail<Of>(p + r * p_stride, factor[r], low, high, v + i, head_dim, head_dim - i, o + r * o_stride + i);
}

void mix_page(const float* p, int64_t p_stride, const float* factor, int rows, int low, int high, const void* v, Element type, int head_dim,
              float* o, int64_t o_stride) {
  with_element(type, [&](auto of) {
    using Of = decltype(of);
    const auto* values = static_cast<const typename Of::Type*>(v);
    int r = 0;
    for (; r + 4 <= rows; r += 4)
      mix_rows<4, Of>(p + r * p_stride, p_stride, factor + r, low, high, values, head_dim, o + r * o_stride, o_stride);
    for (; r < rows; ++r)
      mix_rows<1, Of>(p + r * p_stride, p_stride, factor + r, low, high, values, head_dim, o + r * o_stride, o_stride);
  });
}

// ---- rows -------------------------------------------------------------------------------------------------------

/// f(vector of x, index) for 16 elements at a time; the last ones padded with 0, which `store` drops again.
template <class F>
void each_vector(const float* x, int count, F f) {
  int i = 0;
  for (; i + 16 <= count; i += 16) f(Vec::load(x + i), i, 16);
  if (i < count) f(load_tail<OfFloat32>(x + i, count - i), i, count - i);
}
void store_some(Vec v, float* to, int count) {
  if (count == 16) return v.store(to);
  float padded[16];
  v.store(padded);
  std::memcpy(to, padded, sizeof(float) * size_t(count));
}
Vec load_some(const float* p, int count) { return count == 16 ? Vec::load(p) : load_tail<OfFloat32>(p, count); }

void scale(float* x, float factor, int count) {
  each_vector(x, count, [&](Vec v, int i, int n) { store_some(v * Vec::all(factor), x + i, n); });
}
void add(float* x, const float* y, int count) {
  each_vector(x, count, [&](Vec v, int i, int n) { store_some(v + load_some(y + i, n), x + i, n); });
}
void multiply(float* x, const float* y, int count) {
  each_vector(x, count, [&](Vec v, int i, int n) { store_some(v * load_some(y + i, n), x + i, n); });
}
void silu(float* x, int count) {
  each_vector(x, count, [&](Vec v, int i, int n) {
    const Vec negated = Vec::all(0) - Vec::max(v, Vec::all(-87));  // exp(87) is finite, and v / exp(87) all but 0
    store_some(v / (Vec::all(1) + exponential(negated)), x + i, n);
  });
}

void rms_norm(const float* x, const float* weight, float epsilon, int count, float* y) {
  Vec squares = Vec::all(0);
  each_vector(x, count, [&](Vec v, int, int) { squares = Vec::fma(v, v, squares); });
  const float factor = 1 / __builtin_sqrtf(squares.sum() / float(count) + epsilon);
  each_vector(x, count, [&](Vec v, int i, int n) { store_some(v * Vec::all(factor) * load_some(weight + i, n), y + i, n); });
}

void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, int count, float* y) {
  Vec total = Vec::all(0), squares = Vec::all(0);
  each_vector(x, count, [&](Vec v, int, int) { total = total + v; });
  const float mean = total.sum() / float(count);
  each_vector(x, count, [&](Vec v, int, int n) {
    float lanes[16];
    (v - Vec::all(mean)).store(lanes);
    for (int i = n; i < 16; ++i) lanes[i] = 0;  // padding is not part of the variance
    squares = Vec::fma(Vec::load(lanes), Vec::load(lanes), squares);
  });
  const float factor = 1 / __builtin_sqrtf(squares.sum() / float(count) + epsilon);
  each_vector(x, count, [&](Vec v, int i, int n) {
    store_some(Vec::fma((v - Vec::all(mean)) * Vec::all(factor), load_some(weight + i, n), load_some(bias + i, n)), y + i, n);
  });
}

constexpr chai::cpu::Kernels make_kernels(const char* name) {
  return {name, matmul, widen, narrow, softmax_page, mix_page, scale, add, rms_norm, layer_norm, silu, multiply};
}

}  // namespace
