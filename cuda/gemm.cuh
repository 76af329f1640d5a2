// Products of many rows on tensor cores (mma.sync m16n8k16): weights are the 16-row operand, the step's rows the 8-column one. In: a task
// (linear_task.cuh), rows of the compute type. Out: what the task stores.
//
// Every tile adds up a result in the same order, 16 columns at a time from the first to the last, and K is never split: a row's bits depend
// on neither the other rows, nor the row's place, nor the tile.
#pragma once
#include "launch.cuh"
#include "qkv_task.cuh"
#include "step_launch.h"

namespace chai::cuda {

/// weights: weight rows of a block, rows: rows of the step; warps over both; stages of 64 columns in flight.
template <int weights_, int rows_, int weight_warps_, int row_warps_, int stages_, int blocks_>
struct Tile {
  static constexpr int weights = weights_, rows = rows_, weight_warps = weight_warps_, row_warps = row_warps_, stages = stages_;
  static constexpr int blocks = blocks_;  // wanted on a multiprocessor at once
  static constexpr int threads = weight_warps * row_warps * 32;
  static constexpr int units = weights / 16;
  static constexpr int warp_units = units / weight_warps;   // 16 weight rows each
  static constexpr int warp_groups = rows / row_warps / 8;  // 8 rows each
  static constexpr int stage_elements = (weights + rows) * 64;
  static constexpr size_t shared_bytes = size_t(stage_elements) * stages * 2;
  static_assert(warp_groups % 2 == 0 && units % weight_warps == 0);
  static_assert(size_t(units) * rows * 8 <= shared_bytes, "the destinations of heads take the stages' place");
};

/// Element at 16-byte chunk `chunk` of row `row`, rows of 64 elements: eight rows of one chunk lie in different banks.
__device__ __forceinline__ int swizzled(int row, int chunk) { return row * 64 + ((chunk ^ (row & 7)) << 3); }

/// The 64-column slices of a block's operands on their way to shared memory.
template <class T, class Tile>
struct Loader {
  static constexpr int step_rows = Tile::threads / 8;  // rows that all threads together copy at once
  static constexpr int weight_copies = Tile::weights / step_rows, row_copies = Tile::rows / step_rows;
  static_assert(Tile::weights % step_rows == 0 && Tile::rows % step_rows == 0);
  const T* weights[weight_copies];
  const T* first;  // of the rows that this thread copies; the others follow at step_rows * pitch
  int left;        // rows from there to the last one
  int row, chunk, chunks;

  template <class Task>
  __device__ __forceinline__ Loader(const Task& task, const int32_t* list, int first_unit, const T* from, int pitch, int first_row,
                                    int count)
      : row(int(threadIdx.x) / 8), chunk(int(threadIdx.x) % 8), chunks(pitch / 8) {
#pragma unroll
    for (int i = 0; i < weight_copies; ++i) {
      const int at = row + i * step_rows;
      weights[i] = task.weight_row(task.pair_of_unit(list, first_unit + at / 16, at & 7), (at & 8) != 0);
    }
    first = from + int64_t(first_row + row) * pitch;
    left = count - first_row - row;
  }
  __device__ __forceinline__ void copy_weights(int slice, T* stage, const T* anywhere) const {
    const int at = slice * 8 + chunk;
#pragma unroll
    for (int i = 0; i < weight_copies; ++i) {
      const bool ok = at < chunks && weights[i] != nullptr;
      dev::cp_async16_streaming(stage + swizzled(row + i * step_rows, chunk), ok ? weights[i] + at * 8 : anywhere, ok);
    }
  }
  __device__ __forceinline__ void copy_rows(int slice, T* stage, const T* anywhere) const {
    const int at = slice * 8 + chunk;
#pragma unroll
    for (int i = 0; i < row_copies; ++i) {
      const bool ok = at < chunks && i * step_rows < left;
      const T* from = first + int64_t(i) * step_rows * chunks * 8 + at * 8;
      dev::cp_async16(stage + swizzled(Tile::weights + row + i * step_rows, chunk), ok ? from : anywhere, ok);
    }
  }
};

template <class T, class Tile>
__device__ __forceinline__ void multiply_slice(const T* stage, int unit, int group, float (&sums)[Tile::warp_units][Tile::warp_groups][4]) {
  const int lane = int(threadIdx.x) & 31;
  const int weight_row = unit * 16 + (lane & 15), weight_chunk = lane >> 4;
  const int row = Tile::weights + group * 8 + (lane & 7) + (lane >> 4) * 8, row_chunk = (lane >> 3) & 1;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    uint32_t weights[Tile::warp_units][4];
#pragma unroll
    for (int u = 0; u < Tile::warp_units; ++u) dev::ldmatrix_x4(weights[u], stage + swizzled(weight_row + u * 16, 2 * k + weight_chunk));
#pragma unroll
    for (int n = 0; n < Tile::warp_groups; n += 2) {
      uint32_t rows[4];
      dev::ldmatrix_x4(rows, stage + swizzled(row + n * 8, 2 * k + row_chunk));
#pragma unroll
      for (int u = 0; u < Tile::warp_units; ++u) {
        dev::mma16816<T>(sums[u][n], weights[u], rows[0], rows[1]);
        dev::mma16816<T>(sums[u][n + 1], weights[u], rows[2], rows[3]);
      }
    }
  }
}

/// Where the rows of a tile's heads go, for every unit. destinations: [units][rows].
template <class Tile, class Task>
__device__ __forceinline__ void find_destinations(const StepView& step, const Task& task, const int32_t* list, const int16_t* slots,
                                                  int first_unit, int first_row, int count, uint64_t* destinations) {
  for (int i = int(threadIdx.x); i < Tile::units * Tile::rows; i += Tile::threads) {
    const int row = first_row + i % Tile::rows, head = task.pair_of_unit(list, first_unit + i / Tile::rows, 0).a;
    destinations[i] = 0;
    if (head < 0 || row >= count) continue;
    const int number = step.row_segment[row];
    const int slot = slots[int64_t(number) * task.heads() + head];
    destinations[i] = task.destination(step, step.segment[number], head, slot, row);
  }
}

/// Per row tile a list of heads, per segment the slots of all heads (qkv.cu); both null without heads.
struct HeadLists {
  const int32_t* lists = nullptr;  // [row tiles][1 + heads]
  const int16_t* slots = nullptr;  // [segments][heads]
};

/// Stores a warp's sums. What the ends need from memory is asked for in groups of four rows, so that few round trips are waited for.
template <class Tile, class Task>
__device__ __forceinline__ void store_sums(const StepView& step, const Task& task, const int32_t* list, int first_unit, int first_row,
                                           int unit, int group, int count, const uint64_t* destinations,
                                           const float (&sums)[Tile::warp_units][Tile::warp_groups][4]) {
  const int g = (int(threadIdx.x) & 31) >> 2, t = int(threadIdx.x) & 3;
#pragma unroll
  for (int u = 0; u < Tile::warp_units; ++u) {
    const Pair pair = task.pair_of_unit(list, first_unit + unit + u, g);
#pragma unroll
    for (int n = 0; n < Tile::warp_groups; n += 2) {
      Addends addends[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = first_row + (group + n + i / 2) * 8 + 2 * t + i % 2;
        if (row < count) addends[i] = task.addends(step, pair, row);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int in_tile = (group + n + i / 2) * 8 + 2 * t + i % 2, row = first_row + in_tile;
        if (row >= count) continue;
        const uint64_t to = Task::by_heads ? destinations[(unit + u) * Tile::rows + in_tile] : 0;
        task.store(step, pair, row, sums[u][n + i / 2][i % 2], sums[u][n + i / 2][2 + i % 2], addends[i], to);
      }
    }
  }
}

/// Grid: row tiles x weight tiles, the row tiles of one weight tile side by side so that they meet in the second cache level. Weights are
/// asked for before the kernel ahead has ended, unless it made the list of heads.
template <class T, class Tile, class Task>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks)
    gemm(const StepView* view, Task task, const T* from, int pitch, bool of_logits, int row_tiles, HeadLists heads) {
  DEV_DYN_SMEM(T, shared);
  const StepView& step = *view;
  const int count = of_logits ? step.logit_rows : step.rows;
  const int row_tile = int(blockIdx.x) % row_tiles, weight_tile = int(blockIdx.x) / row_tiles;
  const int first_row = row_tile * Tile::rows, first_unit = weight_tile * Tile::units;
  const int32_t* list = Task::by_heads ? heads.lists + int64_t(row_tile) * (1 + task.heads()) : nullptr;
  if (Task::by_heads || first_row >= count) dev::wait_for_previous_kernel();  // before any return: the next kernel relies on it
  if (first_row >= count || task.pair_of_unit(list, first_unit, 0).a < 0) return;

  const Loader<T, Tile> loader(task, list, first_unit, from, pitch, first_row, count);
  const int slices = (pitch + 63) / 64;
#pragma unroll
  for (int s = 0; s < Tile::stages - 1; ++s)
    if (s < slices) loader.copy_weights(s, shared + s * Tile::stage_elements, from);
  dev::wait_for_previous_kernel();
  dev::let_next_kernel_start();
#pragma unroll
  for (int s = 0; s < Tile::stages - 1; ++s) {
    if (s < slices) loader.copy_rows(s, shared + s * Tile::stage_elements, from);
    dev::cp_async_commit();
  }
  const int warp = int(threadIdx.x) / 32, unit = warp % Tile::weight_warps * Tile::warp_units;
  const int group = warp / Tile::weight_warps * Tile::warp_groups;
  float sums[Tile::warp_units][Tile::warp_groups][4] = {};
  int stage = 0, next = Tile::stages - 1;
  for (int s = 0; s < slices; ++s) {
    dev::cp_async_wait<Tile::stages - 2>();
    __syncthreads();  // slice s is there, and everyone is done with the stage that is filled next
    if (s + Tile::stages - 1 < slices) {
      loader.copy_weights(s + Tile::stages - 1, shared + next * Tile::stage_elements, from);
      loader.copy_rows(s + Tile::stages - 1, shared + next * Tile::stage_elements, from);
    }
    dev::cp_async_commit();
    multiply_slice<T, Tile>(shared + stage * Tile::stage_elements, unit, group, sums);
    stage = stage + 1 == Tile::stages ? 0 : stage + 1;
    next = next + 1 == Tile::stages ? 0 : next + 1;
  }
  uint64_t* destinations = reinterpret_cast<uint64_t*>(shared);
  if constexpr (Task::by_heads) {
    __syncthreads();
    find_destinations<Tile>(step, task, list, heads.slots, first_unit, first_row, count, destinations);
    __syncthreads();
  }
  store_sums<Tile>(step, task, list, first_unit, first_row, unit, group, count, destinations, sums);
}

using TileOf16 = Tile<64, 16, 4, 1, 8, 2>;
using NarrowTileOf16 = Tile<32, 16, 2, 1, 10, 3>;
using TileOf32 = Tile<64, 32, 4, 1, 8, 2>;
using NarrowTileOf32 = Tile<32, 32, 2, 2, 10, 2>;
using TileOf64 = Tile<64, 64, 4, 1, 6, 2>;
using NarrowTileOf64 = Tile<32, 64, 2, 2, 8, 2>;
using TileOf128 = Tile<128, 128, 2, 4, 3, 2>;
using TileOf256 = Tile<128, 256, 2, 4, 3, 1>;  // 64 x 64 sums a warp: tensor cores wait least for shared memory; 144 KiB

/// The tiles of a launch; results do not depend on the choice.
struct Shape {
  bool narrow = false;  // 32 weight rows a block instead of 64
  int rows = 0;         // of a tile
};
inline Shape shape_of(int units, int rows, const DeviceFacts& device) {
  const auto fill = [&](int tile_units, int tile_rows) {
    return ((units + tile_units - 1) / tile_units) * ((rows + tile_rows - 1) / tile_rows) >= device.processors;
  };
  if (rows > 128 && fill(8, 256) && TileOf256::shared_bytes <= device.shared_bytes) return {false, 256};
  if (rows > 64 && fill(8, 128)) return {false, 128};
  const int tile = rows <= 16 ? 16 : rows <= 32 ? 32 : 64;
  return {!fill(4, tile), tile};
}

template <class T, class Tile, class Task>
void launch_gemm(const StepLaunch& step, bool early, const Task& task, const T* from, int pitch, int rows, bool of_logits,
                 const HeadLists& heads) {
  const int row_tiles = (rows + Tile::rows - 1) / Tile::rows, weight_tiles = (task.all_units() + Tile::units - 1) / Tile::units;
  const dim3 grid(unsigned(row_tiles) * unsigned(weight_tiles));
  launch(gemm<T, Tile, Task>, {grid, dim3(Tile::threads), Tile::shared_bytes, step.stream, early}, step.view, task, from, pitch, of_logits,
         row_tiles, heads);
}

/// from: [rows][pitch].
template <class T, class Task>
void multiply_many(const StepLaunch& step, bool early, const Shape& shape, const Task& task, const T* from, int pitch, int rows,
                   bool of_logits, const HeadLists& heads = {}) {
  const auto run = [&](auto tile) { launch_gemm<T, decltype(tile)>(step, early, task, from, pitch, rows, of_logits, heads); };
  if (shape.rows == 256) return run(TileOf256{});
  if (shape.rows == 128) return run(TileOf128{});
  if (shape.rows == 64) return shape.narrow ? run(NarrowTileOf64{}) : run(TileOf64{});
  if (shape.rows == 32) return shape.narrow ? run(NarrowTileOf32{}) : run(TileOf32{});
  return shape.narrow ? run(NarrowTileOf16{}) : run(TileOf16{});
}

}  // namespace chai::cuda
