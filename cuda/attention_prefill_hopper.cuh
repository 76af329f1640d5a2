// The loader's side of the prefill kernel for Hopper: shared memory, its barriers, and the warp that fills the ring with tiles of keys and
// values. In: a block's work, page lists, the pool's tensor map. Out: stages that are full, with zeros where no valid row is.
#pragma once
#include "attention_prefill.cuh"
#include "tensor_map.h"

namespace chai::cuda {

constexpr int block_rows = 128, group_threads = 128, group_rows = 64, block_threads = 3 * group_threads;
constexpr int most_stages = 3;
constexpr int line = 64;  // elements of a swizzled line; wider heads lie as several matrices of such lines, one behind the other
// Registers a thread: 168 at launch, 65536 / 384; then as many as the same block holds.
constexpr int loader_registers = 40, worker_registers = 232;

/// Tiles of head size D with R V slots.
template <int D, int R>
struct Ring {
  static constexpr int tokens = D == 128 && R == 2 ? 64 : 128;
  static constexpr int stages = R == 1 ? (D == 128 ? 2 : 3) : (D == 128 ? 3 : 2);
  static constexpr uint32_t tile_bytes = tokens * D * 2, matrix_bytes = tokens * line * 2;  // of one K or V slot; of 64 of its columns
  static constexpr uint32_t bytes = stages * (1 + R) * tile_bytes;
  static_assert(stages <= most_stages && tokens % page_rows == 0);
};

/// Dynamic shared memory: queries [D / 64][128][64], the ring, barriers, the head tables' columns.
template <int D>
struct Layout {
  static constexpr uint32_t queries = block_rows * D * 2;
  static constexpr uint32_t ring = Ring<D, 1>::bytes > Ring<D, 2>::bytes ? Ring<D, 1>::bytes : Ring<D, 2>::bytes;
  static constexpr uint32_t barriers = queries + ring, tables = barriers + 128;
  static constexpr uint32_t alignment = 1024;  // of the swizzle's pattern
  static size_t bytes(int heads) { return alignment + tables + size_t(3 * heads) * sizeof(int32_t); }
};

/// Full: the copies of a stage have come. Empty: all eight warps are done with it.
struct Barriers {
  uint64_t full_keys[most_stages], full_values[most_stages], empty_keys[most_stages], empty_values[most_stages];
  uint64_t mended;  // values that wait for the loader to clear some of their rows
};
static_assert(sizeof(Barriers) <= 128);

struct Block {
  unsigned char* queries;
  unsigned char* ring;
  Barriers* barriers;
  const int32_t* score;  // [heads] score slot, V slot of each head
  const int32_t* value;
  Extent extent;
  int first_valid, end_valid;  // keys that the cache holds, of those that the segment's rows see
  int64_t row;                 // of the tile's first row in the step
  int first_tile, end_tile;
};

// ---- the loader: one warp ----

/// Page ids of a slot, 32 at a time, one a lane.
struct Pages {
  PageList list;
  int first = 0;
  int32_t mine = 0;
  __device__ __forceinline__ void read(int block, int end) {
    const int own = block + int(threadIdx.x & 31);
    first = block;
    mine = own < end ? list.of(own) : 0;
  }
  __device__ __forceinline__ int32_t at(int block, int end) {
    if (block >= first + 32) read(block, end);
    return __shfl_sync(dev::all_lanes, mine, block - first);
  }
};

/// Rows of a tile that are both in a page and valid: all its pages with a valid row are brought, stale memory is behind the others.
struct Valid {
  int first_block, end_block, low, high;  // blocks of positions; rows [low, high) of the tile
};
template <int tokens>
__device__ __forceinline__ Valid valid_part(const Block& block, int tile) {
  const int first = max(block.first_valid, tile * tokens), end = min(block.end_valid, (tile + 1) * tokens);
  return {first / page_rows, (end + page_rows - 1) / page_rows, first - tile * tokens, end - tile * tokens};
}

template <int D, int R>
__device__ __forceinline__ void copy_tile(const dev::TensorMap& pool, unsigned char* to, uint64_t* barrier, Pages& pages, int tile,
                                          const Valid& valid, int end_block) {
  using S = Ring<D, R>;
#pragma unroll 1
  for (int b = valid.first_block; b < valid.end_block; ++b) {
    const int32_t page = pages.at(b, end_block);
    if ((threadIdx.x & 31) != 0) continue;
#pragma unroll
    for (int column = 0; column < D; column += line)
      dev::copy_box(to + column / line * S::matrix_bytes + (b * page_rows - tile * S::tokens) * (line * 2), pool, barrier, column, 0, page);
  }
}

/// A weight of zero does not silence a NaN in a row that nobody has written: such rows become zeros. By the loader's warp, rarely.
template <int D, int R>
__device__ __forceinline__ void clear_rows(unsigned char* values, const Valid& valid) {
  using S = Ring<D, R>;
  for (int i = int(threadIdx.x & 31); i < R * (D / line) * S::tokens * 8; i += 32) {
    const int matrix = i / (S::tokens * 8), row = i / 8 % S::tokens;
    if (row < valid.low || row >= valid.high)
      dev::store_for_products(values + matrix * S::matrix_bytes + dev::swizzled(row, i % 8), uint4{0, 0, 0, 0});
  }
  dev::fence_for_products();
}

template <int D, int R>
__device__ __forceinline__ void load(const Block& block, const dev::TensorMap& pool, PageList key_list, const PageList (&value_list)[R]) {
  using S = Ring<D, R>;
  constexpr uint32_t box_bytes = page_rows * D * 2;
  Barriers& barriers = *block.barriers;
  const bool leader = (threadIdx.x & 31) == 0;
  const int end_block = (block.end_valid + page_rows - 1) / page_rows;
  Pages keys{key_list}, values[R];
  const Valid start = valid_part<S::tokens>(block, block.first_tile);
  keys.read(start.first_block, end_block);
#pragma unroll
  for (int i = 0; i < R; ++i) {
    values[i].list = value_list[i];
    values[i].read(start.first_block, end_block);
  }
  uint32_t mended = 0;
  // Values follow one tile behind the keys, as they are used.
#pragma unroll 1
  for (int n = 0; n <= block.end_tile - block.first_tile; ++n) {
    if (const int tile = block.first_tile + n; tile < block.end_tile) {
      const int stage = n % S::stages;
      const Valid valid = valid_part<S::tokens>(block, tile);
      dev::barrier_wait(&barriers.empty_keys[stage], uint32_t(n / S::stages & 1) ^ 1);
      if (leader) dev::barrier_expect(&barriers.full_keys[stage], uint32_t(valid.end_block - valid.first_block) * box_bytes);
      copy_tile<D, R>(pool, block.ring + stage * S::tile_bytes, &barriers.full_keys[stage], keys, tile, valid, end_block);
    }
    if (n == 0) continue;
    const int tile = block.first_tile + n - 1, stage = (n - 1) % S::stages;
    const Valid valid = valid_part<S::tokens>(block, tile);
    unsigned char* to = block.ring + (S::stages + stage * R) * S::tile_bytes;
    const bool whole = valid.low == 0 && valid.high == S::tokens;
    uint64_t* full = &barriers.full_values[stage];
    uint64_t* arrival = whole ? full : &barriers.mended;
    dev::barrier_wait(&barriers.empty_values[stage], uint32_t((n - 1) / S::stages & 1) ^ 1);
    if (leader) dev::barrier_expect(arrival, uint32_t(R * (valid.end_block - valid.first_block)) * box_bytes);
#pragma unroll
    for (int i = 0; i < R; ++i) copy_tile<D, R>(pool, to + i * S::tile_bytes, arrival, values[i], tile, valid, end_block);
    if (whole) continue;
    dev::barrier_wait(arrival, mended);
    mended ^= 1;
    clear_rows<D, R>(to, valid);
    __syncwarp();
    if (leader) dev::barrier_arrive(full);
  }
}

}  // namespace chai::cuda
