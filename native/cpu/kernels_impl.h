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
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (body(std::integral_constant<int, i>{}), ...);
  }
  (std::make_integer_sequence<int, N>{});
}

// ---- product --------------------------------------------------------------------------------------------------------

constexpr int depth_block = 512;  // 6 activation and 4 weight rows of this length stay in a 32 KiB first-level cache

/// One tile of outputs over depth [from, to). Sums of an unfinished depth wait in `carry` [MR * NR x lanes].
template <class W, int MR, int NR>
[[gnu::always_inline]] inline void tile(const float* const* x, const W* w, int64_t stride, int from, int to, int depth, float* carry,
                                        float* const* y, int column) {
  const float* xs[MR];
  const W* ws[NR];
  V sums[MR][NR];
  unroll<MR>([&](auto m) __attribute__((always_inline)) { xs[m] = x[m]; });
  unroll<NR>([&](auto n) __attribute__((always_inline)) { ws[n] = w + n * stride; });
  unroll<MR>([&](auto m) __attribute__((always_inline)) {
    unroll<NR>([&](auto n) __attribute__((always_inline)) {
      sums[m][n] = from == 0 ? V::zero() : V::load(carry + (m * NR + n) * lanes);
    });
  });
  const auto step = [&](auto load) __attribute__((always_inline)) {
    V wv[NR];
    unroll<NR>([&](auto n) __attribute__((always_inline)) { wv[n] = load(ws[n]); });
    unroll<MR>([&](auto m) __attribute__((always_inline)) {
      const V xv = load(xs[m]);
      unroll<NR>([&](auto n) __attribute__((always_inline)) { sums[m][n].fma(xv, wv[n]); });
    });
  };
  int k = from;
  for (; k + lanes <= to; k += lanes) step([k](const auto* p) __attribute__((always_inline)) { return V::load(p + k); });
  if (k < to) step([k, to](const auto* p) __attribute__((always_inline)) { return V::load(p + k, to - k); });
  if (to < depth)
    unroll<MR>([&](auto m) __attribute__((always_inline)) {
      unroll<NR>([&](auto n) __attribute__((always_inline)) { sums[m][n].store(carry + (m * NR + n) * lanes); });
    });
  else
    unroll<MR>([&](auto m) __attribute__((always_inline)) {
      float* out = y[m] + column;
      unroll<NR / 4>([&](auto n) __attribute__((always_inline)) { V::sum4(&sums[m][4 * n], out + 4 * n); });
      unroll<NR % 4>([&](auto n) __attribute__((always_inline)) { out[NR / 4 * 4 + n] = sums[m][NR / 4 * 4 + n].sum(); });
    });
}

/// The next smaller tile when fewer rows are left.
constexpr int smaller(int rows) { return rows > 4 ? 4 : rows > 2 ? 2 : 1; }

/// Few rows: weights are read once, in their own type, by tiles over the whole depth.
template <class W, int MR>
[[gnu::always_inline]] inline void direct_rows(const Product& p, const W* w, int row, int column, bool whole) {
  for (; row + MR <= p.rows; row += MR) {
    if (whole)
      tile<W, MR, V::tile_columns>(p.x + row, w, p.stride, 0, p.depth, p.depth, nullptr, p.y + row, column);
    else
      tile<W, MR, 1>(p.x + row, w, p.stride, 0, p.depth, p.depth, nullptr, p.y + row, column);
  }
  if constexpr (MR > 1) direct_rows<W, smaller(MR)>(p, w, row, column, whole);
}

template <class W>
void direct(const Product& p) {
  const W* w = static_cast<const W*>(p.weight);
  int n = 0;
  if (p.rows == 1)
    for (; n + V::vector_columns <= p.columns; n += V::vector_columns)
      tile<W, 1, V::vector_columns>(p.x, w + n * p.stride, p.stride, 0, p.depth, p.depth, nullptr, p.y, n);
  for (; n + V::tile_columns <= p.columns; n += V::tile_columns) direct_rows<W, V::tile_rows>(p, w + n * p.stride, 0, n, true);
  for (; n < p.columns; ++n) direct_rows<W, V::tile_rows>(p, w + n * p.stride, 0, n, false);
}

/// A block of widened weights, [columns x stride], used by all rows before the next block is widened.
struct Block {
  const float* w;
  int64_t stride;
  int column, columns;  // outputs [column, column + columns)
  float* carry;
};

template <int MR>
void block_rows(const Product& p, const Block& b, int row) {
  for (; row + MR <= p.rows; row += MR)
    for (int from = 0; from < p.depth; from += depth_block) {
      const int to = from + depth_block < p.depth ? from + depth_block : p.depth;
      int n = 0;
      for (; n + V::tile_columns <= b.columns; n += V::tile_columns)
        tile<float, MR, V::tile_columns>(p.x + row, b.w + n * b.stride, b.stride, from, to, p.depth, b.carry + n * MR * lanes,
                                         p.y + row, b.column + n);
      for (; n < b.columns; ++n)
        tile<float, MR, 1>(p.x + row, b.w + n * b.stride, b.stride, from, to, p.depth, b.carry + n * MR * lanes, p.y + row,
                           b.column + n);
    }
  if constexpr (MR > 1) block_rows<smaller(MR)>(p, b, row);
}

template <class W>
void widen_row(const W* from, float* to, int count) {
  int k = 0;
  for (; k + lanes <= count; k += lanes) V::load(from + k).store(to + k);
  if (k < count) V::load(from + k, count - k).store(to + k, count - k);
}

template <class W>
void blocked(const Product& p, float* scratch) {
  const W* w = static_cast<const W*>(p.weight);
  const int64_t stride = widened_stride(p.depth);
  int64_t fit = block_floats / stride / V::tile_columns * V::tile_columns;
  if (fit < V::tile_columns) fit = V::tile_columns;
  const int most = fit < block_columns ? int(fit) : block_columns;
  float* carry = scratch + product_scratch(p.depth) - int64_t(block_columns) * most_tile_rows * lanes;
  for (int column = 0; column < p.columns; column += most) {
    const int columns = p.columns - column < most ? p.columns - column : most;
    for (int n = 0; n < columns; ++n) widen_row(w + (column + n) * p.stride, scratch + n * stride, p.depth);
    block_rows<V::tile_rows>(p, {scratch, stride, column, columns, carry}, 0);
  }
}

template <class W>
void product_of(const Product& p, float* scratch) {
  if (p.rows <= V::direct_rows)
    direct<W>(p);
  else
    blocked<W>(p, scratch);
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
    V vv[NC];
    unroll<NC>([&](auto c) __attribute__((always_inline)) { vv[c] = Part ? V::load(v, part) : V::load(v + c * lanes); });
    unroll<MR>([&](auto m) __attribute__((always_inline)) {
      const V weight = V::set(p[m * s.p_stride + j]);
      unroll<NC>([&](auto c) __attribute__((always_inline)) { sums[m][c].fma(weight, vv[c]); });
    });
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
  constexpr int NC = MR == 1 ? V::vector_columns / 2 : V::sum_columns;
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
