// Where the keys and values of a segment lie, and how a run of them comes into shared memory.
// In: tables of a sequence, a page's address. Out: tiles [tokens][D + 8] of cache elements, zero outside the wanted rows and columns.
#pragma once
#include "step_view.cuh"

namespace chai::cuda {

/// Page ids of one K or V slot.
struct PageList {
  const int32_t* ids;
  int32_t stride;
  __device__ __forceinline__ const int32_t& of(int block) const { return ids[int64_t(block) * stride]; }
};

__device__ __forceinline__ PageList key_pages(const StepView& step, const Geometry& g, const SegmentRecord& segment, int layer, int slot) {
  const SequenceRecord& s = step.sequence[segment.sequence];
  if (segment.warm_up) return {s.warm_pages + (int64_t(layer) * g.key_value_heads + slot) * s.warm_blocks, 1};
  return {s.block_pages + s.key_row[layer] + slot, s.table_rows};
}
__device__ __forceinline__ PageList value_pages(const StepView& step, const SegmentRecord& segment, int layer, int slot) {
  const SequenceRecord& s = step.sequence[segment.sequence];
  return {s.block_pages + s.value_row[layer] + slot, s.table_rows};
}

/// First key that the row at `position` attends to.
__device__ __host__ __forceinline__ int first_key(int sliding_window, int position) {
  const int first = position - sliding_window + 1;
  return sliding_window > 0 && first > 0 ? first : 0;
}

/// Tokens of one tile: it never crosses a page.
template <int D>
constexpr int tile_tokens = D <= 128 ? 64 : 32;
/// Elements between two rows of a tile in shared memory: an odd number of 16-byte chunks, so that ldmatrix meets no bank twice.
template <int D>
constexpr int tile_pitch = D + 8;

/// Which rows of a tile are wanted: [low, high).
struct TileRows {
  int low, high;
};

/// Starts the copy of a tile's rows, `from` being its first row in a page. Unwanted rows and the columns from head_dim to D become zero:
/// an unwritten value row may hold NaN, which a weight of zero would not silence. Without 16-byte alignment the copy is done at once.
template <class C, int D, int threads>
__device__ __forceinline__ void load_tile(C* to, const unsigned char* from, int head_dim, TileRows rows, int thread) {
  constexpr int chunks = D / 8, pitch = tile_pitch<D>;
  // Whole rows, all of them wanted: distances are constants, a copy is one instruction.
  if constexpr (threads % chunks == 0)
    if (head_dim == D && rows.low <= 0 && rows.high >= tile_tokens<D>) {
      constexpr int at_once = threads / chunks;
      static_assert(tile_tokens<D> % at_once == 0);
      const unsigned char* const chunk = from + thread * 16;
      C* const place = to + thread / chunks * pitch + thread % chunks * 8;
#pragma unroll
      for (int row = 0; row < tile_tokens<D>; row += at_once) dev::cp_async16(place + row * pitch, chunk + row * D * 2);
      return;
    }
  if (head_dim % 8 == 0) {
    const int row_bytes = head_dim * 2;
    for (int i = thread; i < tile_tokens<D> * chunks; i += threads) {
      const int row = i / chunks, chunk = i % chunks;
      const bool ok = row >= rows.low && row < rows.high && chunk * 8 < head_dim;
      dev::cp_async16(to + row * pitch + chunk * 8, from + (ok ? row * row_bytes + chunk * 16 : 0), ok);
    }
    return;
  }
  const C* elements = reinterpret_cast<const C*>(from);
#pragma unroll 1
  for (int i = thread; i < tile_tokens<D> * D; i += threads) {
    const int row = i / D, column = i % D;
    const bool ok = row >= rows.low && row < rows.high && column < head_dim;
    to[row * pitch + column] = ok ? elements[row * head_dim + column] : dev::from_float<C>(0.0f);
  }
}

/// Two neighbouring elements of a query row as floats, zero beyond head_dim.
template <class T>
__device__ __forceinline__ float2 load_pair(const T* row, int column, int head_dim) {
  const float low = column < head_dim ? dev::to_float(row[column]) : 0.0f;
  const float high = column + 1 < head_dim ? dev::to_float(row[column + 1]) : 0.0f;
  return make_float2(low, high);
}

/// body(D) for the smallest built head size that holds head_dim.
template <int D>
struct HeadSize {
  static constexpr int value = D;
};
template <class Body>
void with_head_size(int head_dim, Body&& body) {
  if (head_dim <= 64)
    body(HeadSize<64>{});
  else if (head_dim <= 80)
    body(HeadSize<80>{});
  else if (head_dim <= 96)
    body(HeadSize<96>{});
  else if (head_dim <= 128)
    body(HeadSize<128>{});
  else
    body(HeadSize<256>{});
}

}  // namespace chai::cuda
