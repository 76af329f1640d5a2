// Prefill attention: many query rows, on tensor cores (mma.sync, sm_80 and later). In: a list of row tiles, rotated queries, pages.
// Out: mixed[row][query head][head_dim]. A block takes one tile of rows, one score slot and up to R of the V slots that it weighs: the
// scores and their softmax are computed once for all of them. Causal; the keys of earlier chunks come from the same pages.
//
// Every row's sums run over its keys in the same order whatever tile, chunk or batch it is computed in; tiles of keys that a row does not
// see leave its state bit for bit.
#include "attention_prefill.cuh"
#include "launch.cuh"

namespace chai::cuda {
namespace {

/// Sizes for padded head size D.
template <int D>
struct Sizes {
  static constexpr int warps = D <= 128 ? 8 : 4;
  static constexpr int threads = warps * 32, rows = warps * 16;
  static constexpr int tokens = tile_tokens<D>, pitch = tile_pitch<D>;
  /// Of the queries and the tiles.
  __device__ __host__ static constexpr size_t tile_bytes(int values, int stages) {
    return size_t(rows + stages * (1 + values) * tokens) * pitch * 2;
  }
};

/// Query rows as a tile. Rows behind the segment are zero.
template <class C, int D>
__device__ __forceinline__ void load_queries(C* to, const C* from, int64_t pitch, int rows, int head_dim) {
  using S = Sizes<D>;
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

/// A warp's 16 rows: lane holds rows lane / 4 and lane / 4 + 8.
template <int D, int R>
struct Running {
  float out[R][D / 8][4];
  float most[2] = {nothing, nothing}, sum[2] = {0, 0};
};

/// The warp's scores for one tile of keys.
template <class C, int D>
__device__ __forceinline__ void multiply_keys(const C* queries, const C* keys, float (&scores)[tile_tokens<D> / 8][4]) {
  using S = Sizes<D>;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
  for (int n = 0; n < S::tokens / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) scores[n][e] = 0;
  const C* query = queries + (warp * 16 + (lane & 15)) * S::pitch + (lane >> 4) * 8;
  const C* key = keys + ((lane & 7) + (lane >> 4) * 8) * S::pitch + ((lane >> 3) & 1) * 8;
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    uint32_t a[4];
    dev::ldmatrix_x4(a, query + step * 16);
#pragma unroll
    for (int n = 0; n < S::tokens / 8; n += 2) {
      uint32_t b[4];
      dev::ldmatrix_x4(b, key + n * 8 * S::pitch + step * 16);
      dev::mma16816<C>(scores[n], a, b[0], b[1]);
      dev::mma16816<C>(scores[n + 1], a, b[2], b[3]);
    }
  }
}

/// Scores become weights, their sums and maxima go to `running`. `position`: of the lane's first row; `token`: of the tile's first key.
template <int D, int R>
__device__ __forceinline__ void weigh(float (&scores)[tile_tokens<D> / 8][4], int token, int position, int window, float scale,
                                      Running<D, R>& running) {
  constexpr int count = tile_tokens<D> / 8;
  const int t = threadIdx.x & 3, first_row = position - int((threadIdx.x & 31) >> 2);  // of the warp
  const bool masked = token + tile_tokens<D> - 1 > first_row || (window > 0 && token <= first_row + 15 - window);
  float most[2] = {running.most[0], running.most[1]};
#pragma unroll
  for (int n = 0; n < count; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      float score = scores[n][e] * scale;
      if (masked) {
        const int key = token + n * 8 + 2 * t + (e & 1), row = position + (e >> 1) * 8;
        if (key > row || (window > 0 && key <= row - window)) score = nothing;
      }
      scores[n][e] = score;
      most[e >> 1] = fmaxf(most[e >> 1], score);
    }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    most[r] = fmaxf(most[r], __shfl_xor_sync(dev::all_lanes, most[r], 1));
    most[r] = fmaxf(most[r], __shfl_xor_sync(dev::all_lanes, most[r], 2));
    const float base = most[r] == nothing ? 0.0f : most[r];  // no key seen so far: all weights are zero
    const float factor = dev::exp2_fast(running.most[r] - base);
    running.most[r] = most[r];
    float sum = 0;
#pragma unroll
    for (int n = 0; n < count; ++n)
#pragma unroll
      for (int e = 2 * r; e < 2 * r + 2; ++e) sum += scores[n][e] = dev::exp2_fast(scores[n][e] - base);
    running.sum[r] = running.sum[r] * factor + sum;
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
      for (int n = 0; n < D / 8; ++n) running.out[i][n][2 * r] *= factor, running.out[i][n][2 * r + 1] *= factor;
  }
}

template <class C, int D>
__device__ __forceinline__ void add_values(const C* values, const uint32_t (&weights)[tile_tokens<D> / 16][4], float (&out)[D / 8][4]) {
  const int lane = threadIdx.x & 31;
  const C* value = values + (lane & 15) * tile_pitch<D> + (lane >> 4) * 8;
#pragma unroll
  for (int step = 0; step < tile_tokens<D> / 16; ++step)
#pragma unroll
    for (int n = 0; n < D / 8; n += 2) {
      uint32_t b[4];
      dev::ldmatrix_x4_trans(b, value + step * 16 * tile_pitch<D> + n * 8);
      dev::mma16816<C>(out[n], weights[step], b[0], b[1]);
      dev::mma16816<C>(out[n + 1], weights[step], b[2], b[3]);
    }
}

/// The results of a warp's rows go to shared memory, one value slot after the other, in the type that they are wanted in.
template <int D, int R>
__device__ __forceinline__ void put_aside(uint16_t* to, Element type, const Running<D, R>& running) {
  const int lane = threadIdx.x & 31;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = running.sum[half];
    sum += __shfl_xor_sync(dev::all_lanes, sum, 1);
    sum += __shfl_xor_sync(dev::all_lanes, sum, 2);
    const float factor = 1 / sum;
    uint16_t* const row = to + (half * 8 + (lane >> 2)) * tile_pitch<D> + 2 * (lane & 3);
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        const float(&four)[4] = running.out[i][n];
        *reinterpret_cast<uint32_t*>(row + i * 16 * tile_pitch<D> + n * 8) =
            pack2_as(type, four[2 * half] * factor, four[2 * half + 1] * factor);
      }
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

/// The tiles of keys and values of a walk: page ids are read one tile ahead of their use.
template <class C, int D, int R>
struct TileStream {
  using S = Sizes<D>;
  const PrefillArguments& a;
  const StepView& view;
  const Extent& extent;
  const PageList& key_list;
  const PageList (&value_list)[R];
  int values, end_tile;
  int32_t key_page = 0, value_page[R] = {};

  __device__ __forceinline__ void look_up(int tile) {
    if (tile >= end_tile) return;
    const int block = tile * S::tokens / page_rows;
    key_page = key_list.of(block);
#pragma unroll
    for (int i = 0; i < R; ++i)
      if (i < values) value_page[i] = value_list[i].of(block);
  }
  __device__ __forceinline__ void copy(C* to, int32_t page, int token) const {
    const unsigned char* from = view.pool + uint64_t(page) * view.page_bytes + uint64_t(token % page_rows) * view.row_bytes;
    load_tile<C, D, S::threads>(to, from, a.geometry.head_dim, {extent.first - token, extent.end - token}, int(threadIdx.x));
  }
  /// Starts the copy of a tile of keys and of every value's, one behind the other.
  __device__ __forceinline__ void load(C* to, int tile) {
    if (tile < end_tile) {
#pragma unroll 1
      for (int i = 0; i <= values; ++i) {
        int32_t page = key_page;
#pragma unroll
        for (int v = 0; v < R; ++v)
          if (i == v + 1) page = value_page[v];
        copy(to + i * S::tokens * S::pitch, page, tile * S::tokens);
      }
      look_up(tile + 1);
    }
    dev::cp_async_commit();
  }
};

/// All tiles of keys in order. With two stages the next tile comes while this one is computed, and warps meet once a tile: the walk then
/// begins with a tile before the first, which is only there to ask for the first.
template <class C, int D, int R>
__device__ __forceinline__ void walk(const PrefillArguments& a, const Extent& extent, const PageList& key_list,
                                     const PageList (&value_list)[R], int values, C* queries, Running<D, R>& running) {
  using S = Sizes<D>;
  constexpr int stage = (1 + R) * S::tokens * S::pitch;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  C* tiles = queries + S::rows * S::pitch;
  const int first_tile = extent.first / S::tokens, end_tile = (extent.end + S::tokens - 1) / S::tokens;
  TileStream<C, D, R> stream{a, *a.view, extent, key_list, value_list, values, end_tile};
  stream.look_up(first_tile);

  const bool live = warp * 16 < extent.rows;  // a warp behind the last row only helps to copy
  const int position = extent.position + warp * 16 + (lane >> 2);
  const float scale = a.geometry.attention_scale * dev::log2_e;
  const int ahead = a.stages - 1;
  int at = 0;  // stage that is filled next
  for (int tile = first_tile - ahead; tile < end_tile; ++tile) {
    if (ahead) dev::cp_async_wait<0>();
    __syncthreads();  // all are done with the tile before this one, and with two stages this one is there for all
    stream.load(tiles + at * stage, tile + ahead);
    at ^= ahead;
    if (!ahead) {
      dev::cp_async_wait<0>();
      __syncthreads();
    }
    if (tile < first_tile || !live || tile * S::tokens > extent.position + warp * 16 + 15) continue;
    const C* keys = tiles + at * stage;
    float scores[S::tokens / 8][4];
    uint32_t weights[S::tokens / 16][4];
    multiply_keys<C, D>(queries, keys, scores);
    weigh<D, R>(scores, tile * S::tokens, position, a.geometry.sliding_window, scale, running);
#pragma unroll
    for (int step = 0; step < S::tokens / 16; ++step)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        weights[step][e] = dev::pack2<C>(scores[2 * step + e / 2][e % 2 * 2], scores[2 * step + e / 2][e % 2 * 2 + 1]);
#pragma unroll
    for (int i = 0; i < R; ++i)
      if (i < values) add_values<C, D>(keys + (1 + i) * S::tokens * S::pitch, weights, running.out[i]);
  }
}

/// Blocks that registers must allow on a multiprocessor, where the compiler does not see by itself that two are worth it; 0: as it likes.
template <int D, int R>
constexpr int least_blocks = D == 96 && R == 1 ? 2 : 0;

template <class C, int D, int R>
__global__ void __launch_bounds__(Sizes<D>::threads, least_blocks<D, R>) prefill_kernel(PrefillArguments a) {
  using S = Sizes<D>;
  DEV_DYN_SMEM(unsigned char, memory);
  __shared__ Work<R> work;
  const Geometry& g = a.geometry;
  const StepView& view = *a.view;
  C* queries = reinterpret_cast<C*>(memory);
  int32_t* score = reinterpret_cast<int32_t*>(memory + S::tile_bytes(R, a.stages));
  int32_t* value = score + g.heads;
  const PrefillTile tile = a.tiles[blockIdx.y];
  const SegmentRecord segment = view.segment[tile.segment];
  const SegmentTables tables = tables_of(view, g, segment, a.layer);
  if (threadIdx.x < 32) find_work<R>(g, tables, int(blockIdx.x), score, value, value + g.heads, work);
  __syncthreads();
  if (work.slot < 0) return;

  const PageList key_list = key_pages(view, g, segment, tables.scores_from, tables.source[g.key_of_score() + work.slot]);
  PageList value_list[R];
  int values = 0;
#pragma unroll
  for (int i = 0; i < R; ++i) {
    value_list[i] = value_pages(view, segment, a.layer, max(0, work.value[i]));
    values += work.value[i] >= 0;
  }
  const Extent extent = extent_of(g, segment, tile.first, S::rows);
  const int64_t first_row = segment.row + tile.first;
  load_queries<C, D>(queries, static_cast<const C*>(a.queries[tables.scores_from]) + first_row * a.query_pitch + work.slot * g.head_dim,
                     a.query_pitch, extent.rows, g.head_dim);
  Running<D, R> running;
#pragma unroll
  for (int i = 0; i < R; ++i)
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) running.out[i][n][e] = 0;
  walk<C, D, R>(a, extent, key_list, value_list, values, queries, running);

  static_assert(R * S::rows * S::pitch * 2 <= S::tile_bytes(R, 1));
  const int warp = threadIdx.x >> 5, rows = min(16, extent.rows - warp * 16);
  uint16_t* const aside = reinterpret_cast<uint16_t*>(memory) + warp * R * 16 * S::pitch;
  __syncthreads();  // all are done with the tiles
  put_aside<D, R>(aside, a.compute, running);
  __syncwarp();
  uint16_t* const to = static_cast<uint16_t*>(a.mixed) + (first_row + warp * 16) * a.query_pitch;
  for (int h = 0; h < g.heads; ++h) {
    if (score[h] != work.slot) continue;
    for (int i = 0; i < values; ++i)
      if (value[h] == work.value[i]) write_mixed<D>(to + h * g.head_dim, a.query_pitch, aside + i * 16 * S::pitch, rows, g.head_dim);
  }
}

template <class C, int D, int R>
void launch_prefill(const StepLaunch& step, int tiles, int groups, PrefillArguments arguments) {
  using S = Sizes<D>;
  const size_t tables = size_t(3 * step.geometry.heads) * sizeof(int32_t), reserved = 128;
  arguments.stages = S::tile_bytes(R, 2) + tables + reserved <= step.device->shared_bytes ? 2 : 1;
  launch(prefill_kernel<C, D, R>,
         {dim3(unsigned(groups), unsigned(tiles)), S::threads, S::tile_bytes(R, arguments.stages) + tables, step.stream}, arguments);
}

/// Two values a block fit the registers up to head size 128.
constexpr bool two_values_fit(int head_size) { return head_size <= 128; }

}  // namespace

int prefill_rows(const StepLaunch& step) {
  int rows = 0;
  with_head_size(step.geometry.head_dim, [&](auto size) { rows = Sizes<decltype(size)::value>::rows; });
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
