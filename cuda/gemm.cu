// Products of many rows on tensor cores (mma.sync m16n8k16): weights are the 16-row operand, the step's rows the 8-column one. In: a task
// (products.cuh), rows of the compute type. Out: what the task stores.
//
// Every tile adds up a result in the same order, 16 columns at a time from the first to the last: a row's bits depend on neither the other
// rows, nor the row's place, nor the tile. Where tiles of few rows leave room on the device, and no row is a warm-up row, several blocks
// share a tile, each a part of the columns; the last of them to arrive adds the parts up in their order, so that a second run gives the
// same bits.
#include <algorithm>

#include "launch.cuh"
#include "products.cuh"

namespace chai::cuda {
namespace {

/// weights: weight rows of a block, rows: rows of the step; warps over both; stages of 64 columns in flight.
template <int weights_, int rows_, int weight_warps_, int row_warps_, int stages_, int blocks_>
struct Tile {
  static constexpr int weights = weights_, rows = rows_, weight_warps = weight_warps_, row_warps = row_warps_, stages = stages_;
  static constexpr int blocks = blocks_;                              // wanted on a multiprocessor at once
  static constexpr bool can_be_shared = rows <= 64 && weights >= 64;  // several blocks may compute one
  static constexpr int threads = weight_warps * row_warps * 32;
  static constexpr int units = weights / 16;
  static constexpr int warp_units = units / weight_warps;   // 16 weight rows each
  static constexpr int warp_groups = rows / row_warps / 8;  // 8 rows each
  static constexpr int stage_elements = (weights + rows) * 64;
  static constexpr size_t shared_bytes = size_t(stage_elements) * stages * 2;
  static_assert(warp_groups % 2 == 0 && units % weight_warps == 0);
  static constexpr int pieces = warp_units * warp_groups;  // four sums each, of a thread
  static_assert(size_t(units) * rows * 8 + size_t(weights) * rows * 4 <= shared_bytes,
                "destinations of heads and sums take the stages' place");
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

  __device__ __forceinline__ Loader(const Task<T>& task, const int32_t* list, int first_unit, const T* from, int pitch, int first_row,
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
template <class Tile, class T>
__device__ __forceinline__ void find_destinations(const StepView& step, const QkvTask<T>& task, const int32_t* list, const int16_t* slots,
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

/// A thread's sums go to shared memory, so that their ends are one loop: written out for each of up to 128 sums, they are ten times the
/// code of the product itself. `pieces`: this thread's first; only this thread reads them.
template <class Tile>
__device__ __forceinline__ void put_aside(float4* pieces, const float (&sums)[Tile::warp_units][Tile::warp_groups][4]) {
#pragma unroll
  for (int i = 0; i < Tile::pieces; ++i) {
    const float(&four)[4] = sums[i / Tile::warp_groups][i % Tile::warp_groups];
    pieces[i * Tile::threads] = make_float4(four[0], four[1], four[2], four[3]);
  }
}

/// Stores a thread's sums, for one kind of task: asked for each row, it would part the loads. What the ends need from memory is asked for
/// in groups of four rows, so that few round trips are waited for.
template <class Tile, class OneTask>
__device__ __forceinline__ void store_sums(const StepView& step, const OneTask& task, const int32_t* list, int first_unit, int first_row,
                                           int unit, int group, int count, const uint64_t* destinations, const float4* pieces) {
  const int g = (int(threadIdx.x) & 31) >> 2, t = int(threadIdx.x) & 3;
#pragma unroll 1
  for (int u = 0; u < Tile::warp_units; ++u) {
    const Pair pair = task.pair_of_unit(list, first_unit + unit + u, g);
#pragma unroll 1
    for (int n = 0; n < Tile::warp_groups; n += 2, pieces += 2 * Tile::threads) {
      const float4 low = pieces[0], high = pieces[Tile::threads];
      const float first[4] = {low.x, low.y, high.x, high.y}, second[4] = {low.z, low.w, high.z, high.w};
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
        const uint64_t to = OneTask::by_heads ? destinations[(unit + u) * Tile::rows + in_tile] : 0;
        task.store(step, pair, row, first[i], second[i], addends[i], to);
      }
    }
  }
}

constexpr int least_part = 4;  // slices of 64 columns, so that a block's pipeline fills
constexpr int most_parts = 8;

/// As many blocks a tile as find room side by side.
__device__ __host__ inline int parts_of(int tiles, int slices, int slots) {
  const int room = tiles > 0 ? slots / tiles : 1, pieces = slices / least_part;
  const int parts = room < pieces ? room : pieces;
  return parts < 1 ? 1 : parts > most_parts ? most_parts : parts;
}

/// Adds up the parts of a tile in the block that comes last, and tells it so. `tile` and `slot` count over all row tiles; slot: of part 0.
template <class Tile>
__device__ __forceinline__ bool join_parts(const Sharing& sharing, int tile, int slot, int part, int parts,
                                           float (&sums)[Tile::warp_units][Tile::warp_groups][4]) {
  __shared__ int32_t before;
  constexpr int pieces = Tile::pieces;
  float4* const first = reinterpret_cast<float4*>(sharing.sums) + int64_t(slot) * (pieces * Tile::threads) + threadIdx.x;
  float4* const mine = first + part * (pieces * Tile::threads);
  put_aside<Tile>(mine, sums);
  __threadfence();  // this thread's sums are seen before the count
  __syncthreads();
  if (threadIdx.x == 0) before = atomicAdd(&sharing.arrived[tile], 1);
  __syncthreads();
  if (before != parts - 1) return false;
  if (threadIdx.x == 0) sharing.arrived[tile] = 0;  // for the next launch
  __threadfence();
#pragma unroll
  for (int i = 0; i < pieces; ++i) {
    float(&four)[4] = sums[i / Tile::warp_groups][i % Tile::warp_groups];
    four[0] = four[1] = four[2] = four[3] = 0;
  }
#pragma unroll 1
  for (int p = 0; p < parts; ++p) {
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
      const float4 more = __ldcg(first + (p * pieces + i) * Tile::threads);
      float(&four)[4] = sums[i / Tile::warp_groups][i % Tile::warp_groups];
      four[0] += more.x, four[1] += more.y, four[2] += more.z, four[3] += more.w;
    }
  }
  return true;
}

/// Grid: row tiles x parts x weight tiles, the row tiles of one weight tile side by side so that they meet in the second cache level.
/// Blocks beyond the tiles that a list of heads needs end at once. Weights are asked for before the kernel ahead has ended, unless it made
/// the list.
template <class T, class Tile>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks)
    gemm(const StepView* view, Task<T> task, const T* from, int pitch, bool of_logits, RowRange range, int row_tiles, Sharing sharing,
         HeadLists heads) {
  DEV_DYN_SMEM(T, shared);
  const StepView& step = *view;
  const int count = min(of_logits ? step.logit_rows : step.rows, range.end);
  const int row_tile = int(blockIdx.x) % row_tiles, place = int(blockIdx.x) / row_tiles;
  const int first_row = range.first + row_tile * Tile::rows;
  const int32_t* list = task.by_heads() ? heads.lists + int64_t(row_tile) * (1 + task.heads()) : nullptr;
  if (task.by_heads() || first_row >= count) dev::wait_for_previous_kernel();  // before any return: the next kernel relies on it
  if (first_row >= count) return;
  const int slices = (pitch + 63) / 64, tiles = (task.units(list) + Tile::units - 1) / Tile::units;
  const int parts = Tile::can_be_shared ? parts_of(tiles, slices, sharing.slots) : 1;
  const int weight_tile = place / parts, part = place - weight_tile * parts, first_unit = weight_tile * Tile::units;
  if (weight_tile >= tiles) return;
  const int begin = slices * part / parts, end = slices * (part + 1) / parts;

  const Loader<T, Tile> loader(task, list, first_unit, from, pitch, first_row, count);
#pragma unroll
  for (int s = 0; s < Tile::stages - 1; ++s)
    if (begin + s < end) loader.copy_weights(begin + s, shared + s * Tile::stage_elements, from);
  dev::wait_for_previous_kernel();
  dev::let_next_kernel_start();
#pragma unroll
  for (int s = 0; s < Tile::stages - 1; ++s) {
    if (begin + s < end) loader.copy_rows(begin + s, shared + s * Tile::stage_elements, from);
    dev::cp_async_commit();
  }
  const int warp = int(threadIdx.x) / 32, unit = warp % Tile::weight_warps * Tile::warp_units;
  const int group = warp / Tile::weight_warps * Tile::warp_groups;
  float sums[Tile::warp_units][Tile::warp_groups][4] = {};
  int stage = 0, next = Tile::stages - 1;
#pragma unroll 1
  for (int s = begin; s < end; ++s) {
    dev::cp_async_wait<Tile::stages - 2>();
    __syncthreads();  // slice s is there, and everyone is done with the stage that is filled next
    if (s + Tile::stages - 1 < end) {
      loader.copy_weights(s + Tile::stages - 1, shared + next * Tile::stage_elements, from);
      loader.copy_rows(s + Tile::stages - 1, shared + next * Tile::stage_elements, from);
    }
    dev::cp_async_commit();
    multiply_slice<T, Tile>(shared + stage * Tile::stage_elements, unit, group, sums);
    stage = stage + 1 == Tile::stages ? 0 : stage + 1;
    next = next + 1 == Tile::stages ? 0 : next + 1;
  }
  if constexpr (Tile::can_be_shared) {
    const int slot = row_tile * sharing.slots;
    if (parts > 1 && !join_parts<Tile>(sharing, slot + weight_tile, slot + weight_tile * parts, part, parts, sums)) return;
  }
  uint64_t* destinations = reinterpret_cast<uint64_t*>(shared);  // [units][rows], then [pieces][threads] of sums: in the stages' place
  float4* pieces = reinterpret_cast<float4*>(destinations + (task.by_heads() ? Tile::units * Tile::rows : 0)) + threadIdx.x;
  __syncthreads();
  put_aside<Tile>(pieces, sums);
  if (task.by_heads()) {
    find_destinations<Tile>(step, task.qkv, list, heads.slots, first_unit, first_row, count, destinations);
    __syncthreads();
  }
  task.of_task(
      [&](const auto& one) { store_sums<Tile>(step, one, list, first_unit, first_row, unit, group, count, destinations, pieces); });
}

using TileOf16 = Tile<64, 16, 4, 1, 8, 2>;
using TileOf32 = Tile<64, 32, 4, 1, 8, 2>;
using TileOf64 = Tile<128, 64, 4, 1, 4, 2>;  // twice the weights: the rows, which many tiles read again, come half as often
using NarrowTileOf64 = Tile<32, 64, 2, 2, 8, 2>;
using TileOf128 = Tile<128, 128, 2, 4, 3, 2>;
using TileOf256 = Tile<128, 256, 2, 4, 3, 1>;  // 64 x 64 sums a warp: tensor cores wait least for shared memory; 144 KiB

template <class T, class Tile>
void launch_gemm(const StepLaunch& step, bool early, const Task<T>& task, const Operands<T>& operands) {
  const int row_tiles = (operands.rows + Tile::rows - 1) / Tile::rows, tiles = (task.all_units() + Tile::units - 1) / Tile::units;
  Sharing sharing = operands.sharing;
  int places = tiles;
  if constexpr (Tile::can_be_shared) {
    // Beside its own shared memory every block takes 1 KiB, and a multiprocessor has as much for one block's more.
    const int fitting = int((step.device->shared_bytes + 1024) / (Tile::shared_bytes + 1024));
    sharing.slots = std::min(sharing.slots, step.device->processors * std::min(Tile::blocks, fitting)) / row_tiles;
    const int slices = (operands.pitch + 63) / 64;
    if (task.by_heads())
      places = std::max(tiles, slices < 2 * least_part ? 0 : int(sharing.slots));  // fewer heads than all leave room for more parts
    else
      places = tiles * parts_of(tiles, slices, sharing.slots);
  }
  const dim3 grid(unsigned(row_tiles) * unsigned(places));
  launch(gemm<T, Tile>, {grid, dim3(Tile::threads), Tile::shared_bytes, step.stream, early}, step.view, task, operands.from, operands.pitch,
         operands.of_logits, operands.range, row_tiles, sharing, operands.heads);
}

}  // namespace

SharingRoom sharing_room(const DeviceFacts& device, int rows) {
  static_assert(TileOf16::blocks == TileOf64::blocks && TileOf32::blocks == TileOf64::blocks);
  const size_t blocks = size_t(device.processors) * TileOf64::blocks;
  const size_t tile_rows = rows <= 16 ? 16 : rows <= 32 ? 32 : TileOf64::rows;
  return {blocks * TileOf64::weights * tile_rows, blocks};
}

int tile_rows_of(int units, int rows, const DeviceFacts& device) {
  const auto fill = [&](int tile_rows) {  // nearly: a tenth of the device may stand idle for a tile that is worth more than that
    return 10 * ((units + 7) / 8) * ((rows + tile_rows - 1) / tile_rows) >= 9 * device.processors;
  };
  if (rows > 128 && fill(256) && TileOf256::shared_bytes <= device.shared_bytes) return 256;
  if (rows > 64 && fill(128)) return 128;
  return rows <= 16 ? 16 : rows <= 32 ? 32 : 64;
}

template <class T>
void multiply_many(const StepLaunch& step, bool early, int tile_rows, const Task<T>& task, const Operands<T>& operands) {
  const auto run = [&](auto tile) { launch_gemm<T, decltype(tile)>(step, early, task, operands); };
  if (tile_rows == 256) return run(TileOf256{});
  if (tile_rows == 128) return run(TileOf128{});
  if (task.kind == Task<T>::Kind::plain) {  // where tiles must stay whole, smaller ones fill the device
    const int row_tiles = (operands.rows + 63) / 64;
    if (operands.sharing.slots == 0 && (task.all_units() + 3) / 4 * row_tiles < step.device->processors) return run(NarrowTileOf64{});
  }
  if (tile_rows == 64) return run(TileOf64{});
  if (tile_rows == 32) return run(TileOf32{});
  return run(TileOf16{});
}

template void multiply_many(const StepLaunch&, bool, int, const Task<__half>&, const Operands<__half>&);
template void multiply_many(const StepLaunch&, bool, int, const Task<__nv_bfloat16>&, const Operands<__nv_bfloat16>&);

}  // namespace chai::cuda
