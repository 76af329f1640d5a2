// What a warp of the prefill kernel computes of one tile of keys and values. In: tiles in shared memory. Out: sums of weighed values.
//
// A warp holds the sums of two bands of 16 rows for one V slot, so that what it reads of a tile from shared memory meets 32 rows. For two
// V slots a pair of warps takes the 32 rows: each computes the weights of one band, hands them to the other through shared memory, and adds
// one of the values. Counted for 128 rows by 64 keys, heads of 128, on a Hopper multiprocessor, where mma.sync does 2540 operations and
// shared memory 128 bytes a cycle: one value takes 1651 cycles of the tensor cores beside 1280 of shared memory (80 reads of 512 bytes a
// warp), two take 2477 beside 2560. With one band a warp, shared memory would take 2304 and 3328.
#pragma once
#include "attention_prefill.cuh"

namespace chai::cuda {

/// Sizes for padded head size D and R values a block.
template <int D, int R>
struct Sizes {
  static constexpr int bands = D <= 128 ? 2 : 1;  // of 16 rows, whose sums take bands * D / 2 registers
  static constexpr int own = bands / R;           // those whose scores a warp computes itself
  static constexpr int teams = 4, threads = teams * R * 32, rows = teams * bands * 16;
  static constexpr int blocks = R == 1 ? 2 : 1;  // that registers allow on a multiprocessor
  static constexpr int tokens = tile_tokens<D>, pitch = tile_pitch<D>, tile = tokens * pitch;
  static_assert(own * R == bands);
  /// Of the queries and the tiles.
  __device__ __host__ static constexpr size_t tile_bytes(int stages) { return size_t(rows * pitch + stages * (1 + R) * tile) * 2; }
};

/// A warp's place: which rows of the block, which of its values. The warps of a value lie on all four parts of a multiprocessor, those of
/// a team on two.
struct Place {
  int value = int(threadIdx.x) / 128, team = (int(threadIdx.x) / 32 + value) % 4;
  /// Of the team's rows, the first of the warp's band.
  __device__ __forceinline__ int band_row(int band) const { return (band ^ value) * 16; }
};

/// A warp's sums, of one value. Its own bands come first; with two values a block, the band of its partner follows.
template <int D, int R>
struct Running {
  static constexpr int bands = Sizes<D, R>::bands, own = Sizes<D, R>::own, tokens = tile_tokens<D>;
  float out[bands][D / 2] = {};
  RowSoftmax softmax[own];
};

/// The query rows of a warp's own bands as first matrices of products: read again for each tile, or, with two values a block, kept in
/// registers.
template <class C, int D, int R>
struct Queries {
  using S = Sizes<D, R>;
  const C* rows;
  uint32_t kept[R > 1 ? D / 16 : 1][4];

  __device__ __forceinline__ Queries(const C* tile, const Place& place) {
    const int lane = threadIdx.x & 31;
    rows = tile + (place.team * (S::bands * 16) + place.band_row(0) + (lane & 15)) * S::pitch + (lane >> 4) * 8;
    if constexpr (R > 1) {
      dev::cp_async_wait<0>();
      __syncthreads();
#pragma unroll
      for (int step = 0; step < D / 16; ++step) dev::ldmatrix_x4(kept[step], rows + step * 16);
    }
  }
  __device__ __forceinline__ void get(int step, int band, uint32_t (&a)[4]) const {
    if constexpr (R > 1) {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = kept[step][i];
    } else {
      dev::ldmatrix_x4(a, rows + band * 16 * S::pitch + step * 16);
    }
  }
};

/// A product of 16 rows by 16 columns, at `c` of a lane's accumulators: two of mma.sync.
template <class C>
__device__ __forceinline__ void multiply_16x16(float* c, const uint32_t (&a)[4], const uint32_t (&b)[4]) {
  dev::mma16816<C>(reinterpret_cast<float(&)[4]>(c[0]), a, b[0], b[1]);
  dev::mma16816<C>(reinterpret_cast<float(&)[4]>(c[4]), a, b[2], b[3]);
}

/// The scores of the warp's own bands for one tile of keys.
template <class C, int D, int R>
__device__ __forceinline__ void multiply_keys(const Queries<C, D, R>& queries, const C* keys,
                                              float (&scores)[Sizes<D, R>::own][tile_tokens<D> / 2]) {
  constexpr int own = Sizes<D, R>::own, pitch = tile_pitch<D>;
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int band = 0; band < own; ++band)
#pragma unroll
    for (int i = 0; i < tile_tokens<D> / 2; ++i) scores[band][i] = 0;
  const C* key = keys + ((lane & 7) + (lane >> 4) * 8) * pitch + ((lane >> 3) & 1) * 8;
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    uint32_t a[own][4];
#pragma unroll
    for (int band = 0; band < own; ++band) queries.get(step, band, a[band]);
#pragma unroll
    for (int n = 0; n < tile_tokens<D> / 8; n += 2) {
      uint32_t b[4];
      dev::ldmatrix_x4(b, key + n * 8 * pitch + step * 16);
#pragma unroll
      for (int band = 0; band < own; ++band) multiply_16x16<C>(scores[band] + n * 4, a[band], b);
    }
  }
}

/// Adds a tile of values, weighed, to the sums.
template <class C, int D, int R>
__device__ __forceinline__ void add_values(const C* values, const uint32_t (&weights)[Sizes<D, R>::bands][tile_tokens<D> / 16][4],
                                           Running<D, R>& running) {
  constexpr int pitch = tile_pitch<D>;
  const int lane = threadIdx.x & 31;
  const C* value = values + (lane & 15) * pitch + (lane >> 4) * 8;
#pragma unroll
  for (int step = 0; step < tile_tokens<D> / 16; ++step)
#pragma unroll
    for (int n = 0; n < D / 8; n += 2) {
      uint32_t b[4];
      dev::ldmatrix_x4_trans(b, value + step * 16 * pitch + n * 8);
#pragma unroll
      for (int band = 0; band < Sizes<D, R>::bands; ++band) multiply_16x16<C>(running.out[band] + n * 4, weights[band][step], b);
    }
}

/// What a warp of a team hands to its partner: weights as they lie in registers, and what sums are to be multiplied with.
template <int tokens>
struct Handed {
  uint4 weights[tokens / 16][32];
  float2 factor[32];
};

/// Of a team of two: gives this warp's weights and factor, and takes the partner's. What was handed before must have been taken.
template <int tokens>
__device__ __forceinline__ float2 exchange(Handed<tokens>* team, const Place& place, float2 factor,
                                           uint32_t (&weights)[2][tokens / 16][4]) {
  const int lane = threadIdx.x & 31;
  Handed<tokens>&mine = team[place.value], &other = team[place.value ^ 1];
#pragma unroll
  for (int step = 0; step < tokens / 16; ++step) {
    const uint32_t(&w)[4] = weights[0][step];
    mine.weights[step][lane] = make_uint4(w[0], w[1], w[2], w[3]);
  }
  mine.factor[lane] = factor;
  dev::barrier_of_some(1 + place.team, 64);
#pragma unroll
  for (int step = 0; step < tokens / 16; ++step) {
    const uint4 w = other.weights[step][lane];
    weights[1][step][0] = w.x, weights[1][step][1] = w.y, weights[1][step][2] = w.z, weights[1][step][3] = w.w;
  }
  return other.factor[lane];
}

/// A band's results go to shared memory, in the type that they are wanted in. `factor`: of the lane's two rows.
template <int D>
__device__ __forceinline__ void put_aside(uint16_t* to, Element type, const float (&out)[D / 2], float2 factor) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint16_t* const row = to + (half * 8 + (lane >> 2)) * tile_pitch<D> + 2 * (lane & 3);
    const float by = half ? factor.y : factor.x;
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
      *reinterpret_cast<uint32_t*>(row + n * 8) = pack2_as(type, out[4 * n + 2 * half] * by, out[4 * n + 2 * half + 1] * by);
  }
}

}  // namespace chai::cuda
