// Prefill attention for Hopper (sm_90a): products of whole warpgroups, pages brought by tensor copies. In and out: as attention_prefill.cu.
// A block takes 128 rows, one score slot and up to two of the V slots that it weighs. Its first warpgroup brings tiles of keys and values
// through a ring of stages; each of the two others multiplies 64 rows: the scores of a tile while the weights of the tile before it meet
// their values. One V slot: 128 keys a tile. Two, with heads of 128: 64, as the sums alone take 128 registers.
//
// Every row's sums run over its keys in the same order whatever tile, chunk or batch it is computed in; whether a head shares its scores
// with another decides the order, and that is a matter of its sequence's head map.
//
// What to expect of a multiprocessor, from counting: 128 rows by 128 keys, heads of 128, are 2048 cycles of its tensor cores (16384 to the
// product by 64 rows, 128 columns, 16: 64 cycles), 1024 of its 16 exponentials a cycle and about 750 of issuing; two warpgroups and the
// overlap inside each hide the latter two but for the first and last tile and the diagonal. With two V slots it is 3072, 1024 and about
// 1250.
//
// FlashAttention-3 (Shah et al. 2024), section 3: warpgroups with roles, products of a tile beside the softmax of the next.
#include "attention_prefill_hopper.cuh"
#include "launch.cuh"

namespace chai::cuda {
namespace {

// ---- the workers: two warpgroups ----

/// A thread's part of 64 rows: rows 16 * warp + lane / 4 and 8 further, of every 8 columns those at 2 * (lane % 4).
template <int D, int R>
struct Running {
  static constexpr int tokens = Ring<D, R>::tokens;
  float scores[tokens / 2], out[R][D / 2];
  uint32_t weights[tokens / 16][4];
  RowSoftmax softmax;
};

template <class T, int D, int R>
__device__ __forceinline__ void multiply_keys(uint32_t queries, uint32_t keys, Running<D, R>& running) {
  using S = Ring<D, R>;
  const uint64_t first = dev::matrix_descriptor(queries, 0, 1024), second = dev::matrix_descriptor(keys, 0, 1024);
  dev::pin(running.scores);
  dev::product_begin();
#pragma unroll
  for (int step = 0; step < D / 16; ++step)
    dev::WarpgroupProduct<T, S::tokens>::shared(running.scores, dev::moved(first, step / 4 * (block_rows * line * 2) + step % 4 * 32),
                                                dev::moved(second, step / 4 * S::matrix_bytes + step % 4 * 32), step > 0);
  dev::product_commit();
}

template <class T, int D, int R>
__device__ __forceinline__ void add_values(uint32_t values, Running<D, R>& running) {
  using S = Ring<D, R>;
  const uint64_t first = dev::matrix_descriptor(values, S::matrix_bytes, 1024);
#pragma unroll
  for (int i = 0; i < R; ++i) dev::pin(running.out[i]);
  dev::product_begin();
#pragma unroll
  for (int step = 0; step < S::tokens / 16; ++step)
#pragma unroll
    for (int i = 0; i < R; ++i)
      dev::WarpgroupProduct<T, D>::registers(running.out[i], running.weights[step],
                                             dev::moved(first, i * S::tile_bytes + step * (16 * line * 2)), true);
  dev::product_commit();
}

/// The warpgroup's query rows as swizzled matrices, zero behind the last row.
template <class T, int D>
__device__ __forceinline__ void load_queries(unsigned char* to, const T* from, int64_t pitch, int rows) {
  for (int i = int(threadIdx.x % group_threads); i < group_rows * (D / 8); i += group_threads) {
    const int row = i / (D / 8), chunk = i % (D / 8);
    dev::cp_async16(to + chunk / 8 * (block_rows * line * 2) + dev::swizzled(row, chunk % 8),
                    from + (row < rows ? row * pitch + chunk * 8 : 0), row < rows);
  }
  dev::cp_async_commit();
  dev::cp_async_wait<0>();
  dev::fence_for_products();
}

/// All tiles that the warpgroup's rows see, in order; the ring's other tiles are let go unread.
template <class T, int D, int R>
__device__ __forceinline__ void walk(const Block& block, int group, float scale, int window, Running<D, R>& running) {
  using S = Ring<D, R>;
  Barriers& barriers = *block.barriers;
  const int lane = threadIdx.x & 31, warp = int(threadIdx.x >> 5) & 3;
  const int position = block.extent.position + group * group_rows;  // of the warpgroup's first row
  const bool live = group * group_rows < block.extent.rows;
  const int all = block.end_tile - block.first_tile;
  const int tiles = live ? min(all, (position + group_rows - 1) / S::tokens + 1 - block.first_tile) : 0;
  const int row = position + warp * 16 + (lane >> 2), column = 2 * (lane & 3);
  const uint32_t queries = dev::shared_address(block.queries) + uint32_t(group * group_rows * line * 2);
  const uint32_t ring = dev::shared_address(block.ring), value_ring = ring + S::stages * S::tile_bytes;
  const auto phase = [](int n) { return uint32_t(n / S::stages & 1); };
  const auto await_keys = [&](int n) {
    if (n < tiles) dev::barrier_wait(&barriers.full_keys[n % S::stages], phase(n));
  };
  const auto scores_of = [&](int n) { multiply_keys<T, D, R>(queries, ring + n % S::stages * S::tile_bytes, running); };
  const auto values_of = [&](int n) {
    dev::barrier_wait(&barriers.full_values[n % S::stages], phase(n));
    add_values<T, D, R>(value_ring + n % S::stages * (R * S::tile_bytes), running);
  };
  const auto let_go = [&](uint64_t* barrier) {
    if (lane == 0) dev::barrier_arrive(barrier);
  };
  const auto softmax = [&](int n) {
    const int token = (block.first_tile + n) * S::tokens;
    const bool masked = token + S::tokens - 1 > position || (window > 0 && token <= position + group_rows - 1 - window);
    return weigh(running.scores, token + column, row, window, masked, scale, running.softmax);
  };
  if (tiles > 0) {
    await_keys(0);
    scores_of(0);
    dev::product_wait<0>();
    dev::pin(running.scores);
    let_go(&barriers.empty_keys[0]);
    softmax(0);
    pack_weights<T>(running.scores, running.weights);
    await_keys(1);
    for (int n = 1; n < tiles; ++n) {
      scores_of(n);
      values_of(n - 1);
      dev::product_wait<1>();
      dev::pin(running.scores);
      let_go(&barriers.empty_keys[n % S::stages]);
      const float2 factor = softmax(n);
      await_keys(n + 1);  // here, as it ends a basic block: within one, ptxas moves the next wait ahead of the softmax
      dev::product_wait<0>();
      dev::pin(running.scores);  // weights change only now
#pragma unroll
      for (int i = 0; i < R; ++i) dev::pin(running.out[i]);
      let_go(&barriers.empty_values[(n - 1) % S::stages]);
      pack_weights<T>(running.scores, running.weights);
#pragma unroll
      for (int i = 0; i < R; ++i) rescale(factor, running.out[i]);
    }
    values_of(tiles - 1);
    dev::product_wait<0>();
#pragma unroll
    for (int i = 0; i < R; ++i) dev::pin(running.out[i]);
    let_go(&barriers.empty_values[(tiles - 1) % S::stages]);
  }
  for (int n = tiles; n < all; ++n) {
    dev::barrier_wait(&barriers.full_keys[n % S::stages], phase(n));
    let_go(&barriers.empty_keys[n % S::stages]);
    dev::barrier_wait(&barriers.full_values[n % S::stages], phase(n));
    let_go(&barriers.empty_values[n % S::stages]);
  }
}

/// The warpgroup's results, through the memory of its queries, to every head that uses the score slot and the V slot.
template <int D, int R>
__device__ __forceinline__ void write_rows(const PrefillArguments& a, const Block& block, int group, int slot, const int32_t (&values)[2],
                                           const Running<D, R>& running) {
  const int lane = threadIdx.x & 31, warp = int(threadIdx.x >> 5) & 3, rows = block.extent.rows - group * group_rows;
  unsigned char* memory = block.queries + group * (group_rows * line * 2);
  const float inverse[2] = {1 / running.softmax.sum_of_row(0), 1 / running.softmax.sum_of_row(1)};
  uint16_t* mixed = static_cast<uint16_t*>(a.mixed) + (block.row + group * group_rows) * a.query_pitch;
#pragma unroll
  for (int i = 0; i < R; ++i) {
    dev::barrier_of_some(1 + group, group_threads);  // nobody reads what was there
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const uint32_t at = n / 8 * (block_rows * line * 2) + dev::swizzled(warp * 16 + (lane >> 2) + 8 * r, n % 8) + (lane & 3) * 4;
        *reinterpret_cast<uint32_t*>(memory + at) =
            pack2_as(a.compute, running.out[i][4 * n + 2 * r] * inverse[r], running.out[i][4 * n + 2 * r + 1] * inverse[r]);
      }
    dev::barrier_of_some(1 + group, group_threads);
    for (int h = 0; h < a.geometry.heads; ++h) {
      if (block.score[h] != slot || block.value[h] != values[i]) continue;
      for (int c = int(threadIdx.x % group_threads); c < group_rows * (D / 8); c += group_threads) {
        const int row = c / (D / 8), chunk = c % (D / 8);
        if (row >= rows) break;
        *reinterpret_cast<uint4*>(mixed + row * int64_t(a.query_pitch) + h * D + chunk * 8) =
            *reinterpret_cast<const uint4*>(memory + chunk / 8 * (block_rows * line * 2) + dev::swizzled(row, chunk % 8));
      }
    }
  }
}

template <class T, int D, int R>
__device__ __forceinline__ void work_on(const PrefillArguments& a, const Block& block, int group, int slot, const int32_t (&values)[2],
                                        const T* queries) {
  Running<D, R> running;
#pragma unroll
  for (float& score : running.scores) score = 0;
#pragma unroll
  for (int i = 0; i < R; ++i)
#pragma unroll
    for (float& out : running.out[i]) out = 0;
  const int rows = block.extent.rows - group * group_rows;
  load_queries<T, D>(block.queries + group * (group_rows * line * 2), queries + int64_t(group) * group_rows * a.query_pitch, a.query_pitch,
                     rows);
  dev::barrier_of_some(1 + group, group_threads);
  walk<T, D, R>(block, group, a.geometry.attention_scale * dev::log2_e, a.geometry.sliding_window, running);
  if (rows > 0) write_rows<D, R>(a, block, group, slot, values, running);
}

/// The whole block, its tables and barriers being there.
template <class T, int D, int R>
__device__ __forceinline__ void run_block(const PrefillArguments& a, const dev::TensorMap& pool, const SegmentRecord& segment,
                                          const SegmentTables& tables, const Work<2>& work, Block& block) {
  const Geometry& g = a.geometry;
  const StepView& view = *a.view;
  constexpr int tokens = Ring<D, R>::tokens;
  block.first_tile = block.extent.first / tokens;
  block.end_tile = (block.extent.end + tokens - 1) / tokens;
  const int warp = __shfl_sync(dev::all_lanes, int(threadIdx.x >> 5), 0), group = warp / 4;
  if (group == 0) {
    dev::give_registers<loader_registers>();
    if (warp > 0) return;
    PageList value_list[R];
#pragma unroll
    for (int i = 0; i < R; ++i) value_list[i] = value_pages(view, segment, a.layer, work.value[i]);
    load<D, R>(block, pool, key_pages(view, g, segment, tables.scores_from, tables.source[g.key_of_score() + work.slot]), value_list);
  } else {
    dev::take_registers<worker_registers>();
    const T* queries = static_cast<const T*>(a.queries[tables.scores_from]) + block.row * a.query_pitch + work.slot * D;
    work_on<T, D, R>(a, block, group - 1, work.slot, work.value, queries);
  }
}

template <class T, int D>
__global__ void __launch_bounds__(block_threads, 1) hopper_kernel(PrefillArguments a, const __grid_constant__ dev::TensorMap pool) {
  if constexpr (dev::has_warpgroup_products) {
    DEV_DYN_SMEM(unsigned char, memory);
    __shared__ Work<2> work;
    const Geometry& g = a.geometry;
    const StepView& view = *a.view;
    unsigned char* aligned = memory + (-dev::shared_address(memory) & (Layout<D>::alignment - 1));
    int32_t* score = reinterpret_cast<int32_t*>(aligned + Layout<D>::tables);
    const PrefillTile tile = a.tiles[blockIdx.y];
    const SegmentRecord segment = view.segment[tile.segment];
    const SegmentTables tables = tables_of(view, g, segment, a.layer);
    Block block;
    block.queries = aligned, block.ring = aligned + Layout<D>::queries;
    block.barriers = reinterpret_cast<Barriers*>(aligned + Layout<D>::barriers);
    block.score = score, block.value = score + g.heads;
    block.extent = extent_of(g, segment, tile.first, block_rows);
    block.first_valid = first_key(g.sliding_window, segment.position);
    block.end_valid = segment.position + segment.count;
    block.row = segment.row + tile.first;
    if (threadIdx.x < 32) find_work<2>(g, tables, int(blockIdx.x), score, score + g.heads, score + 2 * g.heads, work);
    if (threadIdx.x == 32) {
      dev::prefetch_tensor_map(pool);
      for (int i = 0; i < most_stages; ++i) {
        dev::barrier_init(&block.barriers->full_keys[i], 1), dev::barrier_init(&block.barriers->full_values[i], 1);
        dev::barrier_init(&block.barriers->empty_keys[i], 8), dev::barrier_init(&block.barriers->empty_values[i], 8);
      }
      dev::barrier_init(&block.barriers->mended, 1);
      dev::barrier_init_fence();
      dev::fence_for_products();
    }
    __syncthreads();
    if (work.slot < 0) return;
    if (work.value[1] < 0)
      run_block<T, D, 1>(a, pool, segment, tables, work, block);
    else
      run_block<T, D, 2>(a, pool, segment, tables, work, block);
  } else {
    dev::trap();
  }
}

/// body(D) for the head sizes that the kernel is built for.
template <class Body>
bool with_hopper_head_size(int head_dim, Body&& body) {
  if (head_dim == 64) return body(HeadSize<64>{});
  return head_dim == 128 && body(HeadSize<128>{});
}

}  // namespace

bool has_hopper_prefill(const Config& config, const DeviceFacts& device) {
  if (device.capability != 90 || config.attention_scale <= 0 || !tensor_maps_work()) return false;
  return with_hopper_head_size(config.head_dim, [&](auto size) {
    constexpr int D = decltype(size)::value;
    // What was built for another architecture, or for 9.0 without the instructions of 9.0a, only traps: in few registers.
    const bool built = dev::simulated || registers_of(hopper_kernel<__half, D>) > loader_registers;
    return built && Layout<D>::bytes(config.heads) + 128 <= device.shared_bytes;
  });
}

bool takes_hopper_prefill(const StepLaunch& step) {
  const PoolView& pool = step.host->pool;
  return pool.row_bytes == size_t(step.geometry.head_dim) * 2 && pool.page_bytes % 128 == 0 && prefill_rows(step) == block_rows;
}

void attend_prefill_hopper(const StepLaunch& step, const dev::TensorMap& pool, const PrefillTile* tiles, int count, int groups, int layer,
                           const void* const* queries, void* mixed) {
  const Geometry& g = step.geometry;
  const PrefillArguments arguments{step.view, g, tiles, queries, mixed, layer, pitch_of(g.heads * g.head_dim), step.compute, 0};
  with_type(step.cache, [&](auto cache) {
    with_hopper_head_size(g.head_dim, [&](auto size) {
      constexpr int D = decltype(size)::value;
      launch(hopper_kernel<decltype(cache), D>,
             {dim3(unsigned(groups), unsigned(count)), block_threads, Layout<D>::bytes(g.heads), step.stream}, arguments, pool);
      return true;
    });
  });
}

}  // namespace chai::cuda
