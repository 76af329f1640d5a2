// The matrix kernels, written once over the 16-lane vector `V` that each kernels_*.cpp defines before including this.
// Everything here is private to the including file: code compiled for one instruction set must never be linked into another.
// In and out: see kernels.h.
#pragma once
#include <utility>

#include "kernels.h"

namespace chai::cpu {
namespace {

template <int N, class Body>
[[gnu::always_inline]] inline void unroll(Body&& body) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) { (body(std::integral_constant<int, i>{}), ...); }
  (std::make_integer_sequence<int, N>{});
}

// ---- product --------------------------------------------------------------------------------------------------------

/// One tile of outputs: MR rows by NR columns over the whole depth. Every weight loaded serves MR rows, every activation NR columns.
/// Ahead: asks for weights `ahead` elements further on meanwhile (0: those of the next tile and of the one behind it). The hardware's own
/// prefetching stops at every page, that is about every row, and what finds no place in the processor's queue is dropped: asked for only
/// twice, a line is missing so often that one row on float16 weights reads a quarter less a second.
template <class W, int MR, int NR, bool Ahead>
[[gnu::always_inline]] inline void tile(const float* const* x, const W* w, int64_t stride, int depth, float* const* y, int column,
                                        int64_t ahead) {
  constexpr int width = lanes / V::parts;
  constexpr bool twice = sizeof(W) * width >= 32;  // vectors of 16 bytes ask four times a line as it is
  const int64_t further = ahead ? ahead : 2 * NR * stride;
  if (ahead == 0) ahead = NR * stride;
  const float* xs[MR];
  const W* ws[NR];
  V sums[MR][NR];
  unroll<MR>([&](auto m) __attribute__((always_inline)) { xs[m] = x[m]; });
  unroll<NR>([&](auto n) __attribute__((always_inline)) { ws[n] = w + n * stride; });
  unroll<MR>([&](auto m)
                 __attribute__((always_inline)) { unroll<NR>([&](auto n) __attribute__((always_inline)) { sums[m][n] = V::zero(); }); });
  int k = 0;
  for (; k + lanes <= depth; k += lanes)
    unroll<V::parts>([&](auto h) __attribute__((always_inline)) {
      typename V::Part wv[NR];
      unroll<NR>([&](auto n) __attribute__((always_inline)) {
        wv[n] = V::load_part(ws[n] + k + h * width);
        if (Ahead) __builtin_prefetch(ws[n] + k + h * width + ahead, 0, 2);
        if (Ahead && twice) __builtin_prefetch(ws[n] + k + h * width + further, 0, 2);
      });
      unroll<MR>([&](auto m) __attribute__((always_inline)) {
        const typename V::Part xv = V::keep(V::load_part(xs[m] + k + h * width));
        unroll<NR>([&](auto n) __attribute__((always_inline)) { V::fma(sums[m][n].part[h], xv, wv[n]); });
      });
    });
  if (k < depth)
    unroll<NR>([&](auto n) __attribute__((always_inline)) {
      const V wv = V::load(ws[n] + k, depth - k);
      unroll<MR>([&](auto m) __attribute__((always_inline)) { sums[m][n].fma(V::load(xs[m] + k, depth - k), wv); });
    });
  unroll<MR>([&](auto m) __attribute__((always_inline)) {
    float* out = y[m] + column;
    unroll<NR / 4>([&](auto n) __attribute__((always_inline)) { V::sum4(&sums[m][4 * n], out + 4 * n); });
    unroll<NR % 4>([&](auto n) __attribute__((always_inline)) { out[NR / 4 * 4 + n] = sums[m][NR / 4 * 4 + n].sum(); });
  });
}

/// The next smaller tile when fewer rows are left.
constexpr int smaller(int rows) { return rows > 4 ? 4 : rows > 2 ? 2 : 1; }

/// Rows [row, end) by NR columns; the NR weight rows stay in the first-level cache meanwhile.
template <class W, int MR, int NR, bool Ahead>
[[gnu::always_inline]] inline void tiles_of_rows(const Product& p, const W* w, int64_t stride, int row, int end, int column) {
  if (Ahead && row + MR <= end) {
    tile<W, MR, NR, true>(p.x + row, w, stride, p.depth, p.y + row, column, p.ahead);
    return tiles_of_rows<W, MR, NR, false>(p, w, stride, row + MR, end, column);
  }
  for (; !Ahead && row + MR <= end; row += MR) tile<W, MR, NR, false>(p.x + row, w, stride, p.depth, p.y + row, column, 0);
  if constexpr (MR > 1) tiles_of_rows<W, smaller(MR), NR, Ahead>(p, w, stride, row, end, column);
}

template <class W>
void widen_row(const W* from, float* to, int count) {
  int k = 0;
  for (; k + lanes <= count; k += lanes) V::load(from + k).store(to + k);
  if (k < count) V::load(from + k, count - k).store(to + k, count - k);
}

/// NR weight rows for rows [row, end): widened once for all where conversion is slow, else in their own type (widening a whole block of
/// weights to memory first was 10 to 30 % slower with AVX-512: conversion hides behind the multiplies, the stores do not).
template <class W, int NR>
void columns_of_rows(const Product& p, const W* w, int row, int end, int column, float* scratch) {
  if (V::slow_conversion && sizeof(W) == 2 && end - row > V::tile_rows) {
    const int64_t stride = widened_stride(p.depth);
    for (int n = 0; n < NR; ++n) widen_row(w + n * p.stride, scratch + n * stride, p.depth);
    tiles_of_rows<float, V::tile_rows, NR, false>(p, scratch, stride, row, end, column);
  } else {
    tiles_of_rows<W, V::tile_rows, NR, true>(p, w, p.stride, row, end, column);
  }
}

template <class W>
void product_of(const Product& p, float* scratch) {
  const W* w = static_cast<const W*>(p.weight);
  int64_t block = block_floats / p.depth / V::tile_rows * V::tile_rows;  // activations of a block of rows stay in the second-level cache
  if (block < 4 * V::tile_rows) block = 4 * V::tile_rows;
  for (int row = 0; row < p.rows; row += int(block)) {
    const int end = p.rows - row < block ? p.rows : row + int(block);
    int n = 0;
    if (end - row == 1)
      for (; n + V::vector_columns <= p.columns; n += V::vector_columns)
        tile<W, 1, V::vector_columns, true>(p.x + row, w + n * p.stride, p.stride, p.depth, p.y + row, n, p.ahead);
    for (; n + V::tile_columns <= p.columns; n += V::tile_columns)
      columns_of_rows<W, V::tile_columns>(p, w + n * p.stride, row, end, n, scratch);
    for (; n < p.columns; ++n) columns_of_rows<W, 1>(p, w + n * p.stride, row, end, n, scratch);
  }
}

void product(const Product& p, float* scratch) {
  switch (p.type) {
    case Element::float32: return product_of<float>(p, scratch);
    case Element::float16: return product_of<Half>(p, scratch);
    case Element::bfloat16: return product_of<BrainHalf>(p, scratch);
  }
}

// ---- weighted sum ---------------------------------------------------------------------------------------------------

/// MR rows by NC vectors of columns. Part: one vector, of which only the first `part` columns exist.
template <class T, int MR, int NC, bool Part>
[[gnu::always_inline]] inline void sum_tile(const WeightedSum& s, int row, int column, int part) {
  const float* p = s.p + row * s.p_stride;
  const T* v = static_cast<const T*>(s.v) + column;
  float* out = s.out + row * s.out_stride + column;
  V sums[MR][NC];
  unroll<MR>([&](auto m) __attribute__((always_inline)) {
    unroll<NC>([&](auto c) __attribute__((always_inline)) {
      const float* at = out + m * s.out_stride + c * lanes;
      sums[m][c] = Part ? V::load(at, part) : V::load(at);
    });
  });
  for (int j = 0; j < s.count; ++j, v += s.v_stride) {
    if constexpr (Part) {
      const V vv = V::load(v, part);
      unroll<MR>([&](auto m) __attribute__((always_inline)) { sums[m][0].fma(V::set(p[m * s.p_stride + j]), vv); });
    } else {
      unroll<V::parts>([&](auto h) __attribute__((always_inline)) {
        typename V::Part vv[NC];
        unroll<NC>([&](auto c) __attribute__((always_inline)) {
          vv[c] = V::load_part(v + c * lanes + h * (lanes / V::parts));
          if (MR == 1) __builtin_prefetch(v + c * lanes + h * (lanes / V::parts) + s.ahead, 0, 2);
        });
        unroll<MR>([&](auto m) __attribute__((always_inline)) {
          const typename V::Part weight = V::set_part(p[m * s.p_stride + j]);
          unroll<NC>([&](auto c) __attribute__((always_inline)) { V::fma(sums[m][c].part[h], weight, vv[c]); });
        });
      });
    }
  }
  unroll<MR>([&](auto m) __attribute__((always_inline)) {
    unroll<NC>([&](auto c) __attribute__((always_inline)) {
      float* at = out + m * s.out_stride + c * lanes;
      if (Part)
        sums[m][c].store(at, part);
      else
        sums[m][c].store(at);
    });
  });
}

template <class T, int MR>
void sum_rows(const WeightedSum& s, int row) {
  constexpr int NC = V::sum_columns;
  for (; row + MR <= s.rows; row += MR) {
    int c = 0;
    for (; c + NC * lanes <= s.width; c += NC * lanes) sum_tile<T, MR, NC, false>(s, row, c, 0);
    for (; c + lanes <= s.width; c += lanes) sum_tile<T, MR, 1, false>(s, row, c, 0);
    if (c < s.width) sum_tile<T, MR, 1, true>(s, row, c, s.width - c);
  }
  if constexpr (MR > 1) sum_rows<T, smaller(MR)>(s, row);
}

void weighted_sum(const WeightedSum& s) {
  switch (s.type) {
    case Element::float32: return sum_rows<float, V::tile_rows>(s, 0);
    case Element::float16: return sum_rows<Half, V::tile_rows>(s, 0);
    case Element::bfloat16: return sum_rows<BrainHalf, V::tile_rows>(s, 0);
  }
}

}  // namespace
}  // namespace chai::cpu
