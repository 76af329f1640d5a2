// Prefill attention: many query rows, on tensor cores (mma.sync, sm_80 and later). In: a list of row tiles, rotated queries, pages.
// Out: mixed[row][query head][head_dim]. A block takes one tile of rows, one score slot and up to R of the V slots that it weighs: the
// scores and their softmax are computed once for all of them. Causal; the keys of earlier chunks come from the same pages.
//
// Every row's sums run over its keys in the same order whatever tile, chunk or batch it is computed in; tiles of keys that a row does not
// see leave its state bit for bit.
#include "attention_prefill_warp.cuh"
#include "launch.cuh"

namespace chai::cuda {
namespace {

/// Query rows as a tile. Rows behind the segment are zero.
template <class C, int D, class S>
__device__ __forceinline__ void load_queries(C* to, const C* from, int64_t pitch, int rows, int head_dim) {
  if (head_dim % 8 == 0) {
    for (int i = int(threadIdx.x); i < S::rows * (D / 8); i += S::threads) {
      const int row = i / (D / 8), column = i % (D / 8) * 8;
      const bool ok = row < rows && column < head_dim;
      dev::cp_async16(to + row * S::pitch + column, from + (ok ? row * pitch + column : 0), ok);
    }
    return;
  }
#pragma unroll 1
  for (int i = int(threadIdx.x); i < S::rows * D; i += S::threads) {
    const int row = i / D, column = i % D;
    to[row * S::pitch + column] = row < rows && column < head_dim ? from[row * pitch + column] : dev::from_float<C>(0.0f);
  }
}

/// Up to 16 rows that lie aside, to one head of mixed. By one warp.
template <int D>
__device__ __forceinline__ void write_mixed(uint16_t* to, int64_t pitch, const uint16_t* from, int rows, int head_dim) {
  const int lane = threadIdx.x & 31;
  if (head_dim % 8 == 0) {
    for (int i = lane; i < rows * (D / 8); i += 32) {
      const int row = i / (D / 8), column = i % (D / 8) * 8;
      if (column < head_dim)
        *reinterpret_cast<uint4*>(to + row * pitch + column) = *reinterpret_cast<const uint4*>(from + row * tile_pitch<D> + column);
    }
    return;
  }
#pragma unroll 1
  for (int i = lane; i < rows * D; i += 32)
    if (i % D < head_dim) to[i / D * pitch + i % D] = from[i / D * tile_pitch<D> + i % D];
}

/// What a block works on, in shared memory: registers are for sums.
template <int R>
struct Block {
  Work<R> work;
  int32_t values;  // V slots
  Extent extent;
  int32_t first_tile, end_tile;
  PageList list[1 + R];    // of keys, of values
  int32_t page[4][1 + R];  // ids of tile % 4
  const unsigned char* pool;
  uint64_t page_bytes;
};

/// The tiles of keys and values of a walk. Each call starts copies; a tile's page ids are to be there before the tile is asked for.
template <class C, int D, int R>
struct TileStream {
  using S = Sizes<D, R>;
  Block<R>& block;
  int head_dim;

  __device__ __forceinline__ bool has(int tile) const { return tile >= block.first_tile && tile < block.end_tile; }
  __device__ __forceinline__ void load_pages(int tile) const {
    const int i = int(threadIdx.x);
    if (i <= block.values && has(tile)) dev::cp_async4(&block.page[tile & 3][i], &block.list[i].of(tile * S::tokens / page_rows));
  }
  __device__ __forceinline__ void load_keys(C* to, int tile) const {
    if (has(tile)) copy(to, tile, 0);
  }
  /// A tile of every value's, one behind the other.
  __device__ __forceinline__ void load_values(C* to, int tile) const {
    if (!has(tile)) return;
#pragma unroll 1
    for (int i = 0; i < block.values; ++i) copy(to + i * S::tile, tile, 1 + i);
  }

 private:
  __device__ __forceinline__ void copy(C* to, int tile, int list) const {
    const int token = tile * S::tokens;
    const unsigned char* page = block.pool + uint64_t(block.page[tile & 3][list]) * block.page_bytes;
    load_tile<C, D, S::threads>(to, page + token % page_rows * head_dim * 2, head_dim,
                                {block.extent.first - token, block.extent.end - token}, int(threadIdx.x));
  }
};

/// All tiles of keys in order; the walk begins with one before the first, which is only there to ask for the first. With two stages the
/// next tile comes while this one is computed, and warps meet once a tile. With one, its values come while its weights are computed and the
/// next keys while its values are added, and warps meet twice.
template <class C, int D, int R>
__device__ __forceinline__ void walk(const PrefillArguments& a, Block<R>& block, const Place& place, C* memory, Running<D, R>& running) {
  using S = Sizes<D, R>;
  const int lane = threadIdx.x & 31, team_row = place.team * (S::bands * 16), ahead = a.stages - 1;
  constexpr int stage = (1 + R) * S::tile;  // keys, then values
  C* const tiles = memory + S::rows * S::pitch;
  const TileStream<C, D, R> stream{block, a.geometry.head_dim};
  stream.load_pages(block.first_tile);
  dev::cp_async_commit();
  const Queries<C, D, R> queries(memory, place);

  const int window = a.geometry.sliding_window, position = block.extent.position + team_row;  // of the team's first row
  const float scale = a.geometry.attention_scale * dev::log2_e;
  for (int tile = block.first_tile - 1; tile < block.end_tile; ++tile) {
    const int token = tile * S::tokens, at = tile & ahead, next = at ^ ahead;  // stages of this tile and the next
    // A team behind the last row, or whose rows see nothing of the tile, only helps to copy.
    const bool sees = tile >= block.first_tile && team_row < block.extent.rows && token < position + S::bands * 16;
    uint32_t weights[S::bands][S::tokens / 16][4];
    dev::cp_async_wait<0>();
    __syncthreads();  // the tile's keys, with two stages its values too, are there for all; all are done with the tile before it
    stream.load_pages(tile + 2);
    stream.load_values(tiles + next * stage + S::tile, tile + ahead);
    dev::cp_async_commit();
    if (sees) {
      float scores[S::own][S::tokens / 2];
      multiply_keys<C, D, R>(queries, tiles + at * stage, scores);
      float2 factor;
#pragma unroll
      for (int band = 0; band < S::own; ++band) {
        const int top = position + place.band_row(band);  // of the band's first row
        const bool masked = token + S::tokens - 1 > top || (window > 0 && token <= top + 15 - window);
        factor = weigh(scores[band], token + 2 * (lane & 3), top + (lane >> 2), window, masked, scale, running.softmax[band]);
        pack_weights<C>(scores[band], weights[band]);
        rescale(factor, running.out[band]);
      }
      if constexpr (R > 1) {  // in the queries' place
        static_assert(sizeof(Handed<S::tokens>) * S::teams * R <= S::rows * S::pitch * 2);
        factor = exchange(reinterpret_cast<Handed<S::tokens>*>(memory) + place.team * R, place, factor, weights);
        rescale(factor, running.out[1]);
      }
    }
    if (!ahead) {
      dev::cp_async_wait<0>();
      __syncthreads();  // its values are there for all; all are done with its keys
    }
    stream.load_keys(tiles + next * stage, tile + 1);
    dev::cp_async_commit();
    if (sees && place.value < block.values) add_values<C, D, R>(tiles + at * stage + (1 + place.value) * S::tile, weights, running);
  }
}

/// By one thread, the block's work being found.
template <int R, int rows, int tokens>
__device__ __forceinline__ void fill_block(const PrefillArguments& a, const PrefillTile& tile, const SegmentRecord& segment,
                                           const SegmentTables& tables, Block<R>& block) {
  const StepView& view = *a.view;
  const Geometry& g = a.geometry;
  block.values = 0;
  if (block.work.slot < 0) return;
  block.extent = extent_of(g, segment, tile.first, rows);
  block.first_tile = block.extent.first / tokens, block.end_tile = (block.extent.end + tokens - 1) / tokens;
  block.list[0] = key_pages(view, g, segment, tables.scores_from, tables.source[g.key_of_score() + block.work.slot]);
  for (int i = 0; i < R; ++i) {
    if (block.work.value[i] < 0) continue;
    block.list[1 + i] = value_pages(view, segment, a.layer, block.work.value[i]);
    block.values += 1;
  }
  block.pool = view.pool, block.page_bytes = view.page_bytes;
}

template <class C, int D, int R>
__global__ void __launch_bounds__(Sizes<D, R>::threads, Sizes<D, R>::blocks) prefill_kernel(PrefillArguments a) {
  using S = Sizes<D, R>;
  DEV_DYN_SMEM(unsigned char, memory);
  __shared__ Block<R> block;
  const Geometry& g = a.geometry;
  int32_t* score = reinterpret_cast<int32_t*>(memory + S::tile_bytes(a.stages));
  int32_t* value = score + g.heads;
  const PrefillTile tile = a.tiles[blockIdx.y];
  const SegmentRecord segment = a.view->segment[tile.segment];
  const SegmentTables tables = tables_of(*a.view, g, segment, a.layer);
  if (threadIdx.x < 32) {
    find_work<R>(g, tables, int(blockIdx.x), score, value, value + g.heads, block.work);
    __syncwarp();
    if (threadIdx.x == 0) fill_block<R, S::rows, S::tokens>(a, tile, segment, tables, block);
  }
  __syncthreads();
  if (block.work.slot < 0) return;

  const int rows = block.extent.rows, slot = block.work.slot;
  const int64_t first_row = segment.row + tile.first;
  C* const queries = reinterpret_cast<C*>(memory);
  load_queries<C, D, S>(queries, static_cast<const C*>(a.queries[tables.scores_from]) + first_row * a.query_pitch + slot * g.head_dim,
                        a.query_pitch, rows, g.head_dim);
  const Place place;
  Running<D, R> running;
  walk<C, D, R>(a, block, place, queries, running);

  constexpr size_t results = size_t(R) * S::rows * S::pitch * 2;
  static_assert(results + S::threads * sizeof(float2) <= S::tile_bytes(1));
  __syncthreads();  // all are done with the tiles
  float2 factor[S::bands];
#pragma unroll
  for (int band = 0; band < S::own; ++band)
    factor[band] = make_float2(1 / running.softmax[band].sum_of_row(0), 1 / running.softmax[band].sum_of_row(1));
  if constexpr (R > 1) {
    float2* const handed = reinterpret_cast<float2*>(memory + results) + place.team * 64 + (threadIdx.x & 31);
    handed[place.value * 32] = factor[0];
    dev::barrier_of_some(1 + place.team, 64);
    factor[1] = handed[(place.value ^ 1) * 32];
  }
  if (place.value >= block.values) return;
#pragma unroll
  for (int band = 0; band < S::bands; ++band) {
    const int row = place.team * (S::bands * 16) + place.band_row(band);
    uint16_t* const aside = reinterpret_cast<uint16_t*>(memory) + (place.value * S::rows + row) * S::pitch;
    put_aside<D>(aside, a.compute, running.out[band], factor[band]);
    __syncwarp();
    uint16_t* const to = static_cast<uint16_t*>(a.mixed) + (first_row + row) * a.query_pitch;
    for (int h = 0; h < g.heads; ++h)
      if (score[h] == slot && value[h] == block.work.value[place.value])
        write_mixed<D>(to + h * g.head_dim, a.query_pitch, aside, min(16, rows - row), g.head_dim);
  }
}

template <class C, int D, int R>
void launch_prefill(const StepLaunch& step, int tiles, int groups, PrefillArguments arguments) {
  using S = Sizes<D, R>;
  // Two stages, where as many blocks as registers allow have room for them on a multiprocessor, which keeps 1 KiB of each for itself.
  const size_t tables = size_t(3 * step.geometry.heads) * sizeof(int32_t), others = tables + sizeof(Block<R>) + 16 + 1024;
  arguments.stages = S::blocks * (S::tile_bytes(2) + others) <= step.device->shared_bytes + 1024 ? 2 : 1;
  launch(prefill_kernel<C, D, R>,
         {dim3(unsigned(groups), unsigned(tiles)), S::threads, S::tile_bytes(arguments.stages) + tables, step.stream}, arguments);
}

/// Two values a block fit the registers up to head size 128.
constexpr bool two_values_fit(int head_size) { return head_size <= 128; }

}  // namespace

int prefill_rows(const StepLaunch& step) {
  int rows = 0;
  with_head_size(step.geometry.head_dim, [&](auto size) { rows = Sizes<decltype(size)::value, 1>::rows; });
  return rows;
}

void attend_prefill(const StepLaunch& step, const PrefillTile* tiles, int count, int groups, int values, int layer,
                    const void* const* queries, void* mixed) {
  const Geometry& g = step.geometry;
  const PrefillArguments arguments{step.view, g, tiles, queries, mixed, layer, pitch_of(g.heads * g.head_dim), step.compute, 1};
  with_type(step.cache, [&](auto cache) {
    with_head_size(g.head_dim, [&](auto size) {
      using C = decltype(cache);
      constexpr int D = decltype(size)::value;
      if constexpr (two_values_fit(D)) {
        if (values > 1) return launch_prefill<C, D, 2>(step, count, groups, arguments);
      }
      launch_prefill<C, D, 1>(step, count, values > 1 ? g.heads : groups, arguments);
    });
  });
}

}  // namespace chai::cuda
