// Decode attention: few query rows against long caches, at the speed of memory. In: DecodePlan, rotated queries, pages.
// Out: mixed[row][query head][head_dim]. Each block is a worker that reads one even share of all keys and values, in order; scores of a
// group are computed once a token and weigh the rows of up to eight V slots. Where a group spans workers the last of them merges the parts.
//
// Both products run on tensor cores with tokens (scores) or columns (values) as the 16 rows of a fragment and score rows as its 8 columns:
// a warp then spends about one instruction on 64 bytes, whether one score row uses them or eight.
#include <algorithm>
#include <type_traits>

#include "attention_plan.h"
#include "launch.cuh"

namespace chai::cuda {
namespace {

constexpr int stages = 4;  // tiles in shared memory: one in use, three on their way
constexpr int warps = decode_threads / 32;
constexpr float nothing = -INFINITY;

/// Sizes for the padded head size D, in elements.
template <int D>
struct Sizes {
  static constexpr int tokens = tile_tokens<D>, pitch = tile_pitch<D>, tile = tokens * pitch;
  static constexpr int steps = D / 16;                        // 16-column steps of a row
  static constexpr int blocks = (steps + warps - 1) / warps;  // 16-column blocks of a value row that one warp accumulates
  static constexpr int score_pitch = tokens + 8;
  static constexpr int values = decode_values(D);
  static constexpr int out_pitch = values * D + 4;  // floats between two score rows of staged results
  /// Results and weights of the merge reuse the ring.
  static constexpr size_t ring_bytes =
      std::max(size_t(stages) * tile * 2, sizeof(float) * decode_rows * (size_t(out_pitch) + most_workers));
};

/// Where a score lies: in rows 4 to 7 neighbouring eights change places, so that no two lanes of a read or a write meet in a bank.
template <int D>
__device__ __forceinline__ int score_place(int row, int column) {
  return row * Sizes<D>::score_pitch + (column ^ ((row & 4) << 1));
}

/// Shared memory behind the ring.
template <int D>
struct Shared {
  float scores[decode_rows * Sizes<D>::score_pitch];
  float tile_max[warps][decode_rows];
  float state[decode_rows][2];  // largest score, sum of weights
  int32_t last;
  uint16_t use[1];  // [heads] 0, or 1 + value | slot << 8 of the group; really as long as there are heads
};

struct DecodeArguments {
  const StepView* view;
  Geometry geometry;
  DecodePlan plan;
  DecodeParts parts;
  const void* const* queries;
  void* mixed;
  int32_t layer, query_pitch;
  Element compute;  // of mixed; queries are of the cache type
};

/// A worker's tiles of one group, and how the group is shared out.
struct Unit {
  int begin, end;             // tiles, counted from the group's first
  int first_worker, workers;  // that read this group
};

/// The tiles of a group one after the other: keys, then the values of each slot, then the next run of tokens. Page ids are read one tile
/// ahead of their use.
template <class C, int D>
struct TileStream {
  const DecodeGroup& group;
  int sliding_window;
  int tile, last, which = 0;
  int32_t page = 0;

  __device__ TileStream(const DecodeGroup& group_, const Geometry& g, const Unit& unit)
      : group(group_), sliding_window(g.sliding_window), tile(group_.first_tile + unit.begin), last(group_.first_tile + unit.end) {
    look_up();
  }
  __device__ void look_up() {
    if (tile >= last) return;
    const int64_t block = tile * Sizes<D>::tokens / page_rows;
    page = which == 0 ? group.key_ids[block * group.key_stride] : group.value_ids[which - 1][block * group.value_stride];
  }
  /// Starts the copy of the next tile, if there is one.
  __device__ void load_next(C* to) {
    if (tile < last) {
      const int token = tile * Sizes<D>::tokens;
      const int head_dim = group.head_dim;
      const TileRows wanted{first_key(sliding_window, group.position) - token, group.position + group.count - token};
      const unsigned char* from = group.pool + uint64_t(page) * group.page_bytes + uint64_t(token % page_rows) * unsigned(head_dim) * 2;
      load_tile<C, D, decode_threads>(to, from, head_dim, wanted, int(threadIdx.x));
      if (++which > group.value_count) which = 0, ++tile;
      look_up();
    }
    dev::cp_async_commit();
  }
};

/// Query fragments of the lane's score row.
template <class C, int D>
struct Queries {
  uint32_t pairs[Sizes<D>::steps][2];

  __device__ void load(const C* row, int head_dim) {
    const int t = threadIdx.x & 3;
#pragma unroll
    for (int step = 0; step < Sizes<D>::steps; ++step)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int column = step * 16 + half * 8 + 2 * t;
        if (head_dim % 2 == 0) {  // both elements lie in one aligned word
          pairs[step][half] = row && column < head_dim ? *reinterpret_cast<const uint32_t*>(row + column) : 0;
        } else {
          const float2 q = row ? load_pair(row, column, head_dim) : make_float2(0, 0);
          pairs[step][half] = dev::pack2<C>(q.x, q.y);
        }
      }
  }
};

/// What a warp keeps while it walks a unit's tiles. Score row lane / 4 for the softmax; rows 2 * (lane % 4) and the next for results.
template <class C, int D>
struct Running {
  float out[Sizes<D>::values][Sizes<D>::blocks][4];
  uint32_t weights[Sizes<D>::tokens / 16][2];
  float most = nothing, sum = 0;
};

/// Scores of one tile of keys: warp w has tokens 16 w to 16 w + 15. Rows see keys (position - window, position]; `positions` of score rows
/// 2 * (lane % 4) and the next.
template <class C, int D>
__device__ __forceinline__ void score_tile(const C* keys, int token, const int (&positions)[2], const Geometry& g,
                                           const Queries<C, D>& queries, Shared<D>& shared) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, t = lane & 3;
  if (warp * 16 >= Sizes<D>::tokens) return;
  float sums[2][4] = {};
  const C* from = keys + (warp * 16 + (lane & 15)) * Sizes<D>::pitch + (lane >> 4) * 8;
#pragma unroll
  for (int step = 0; step < Sizes<D>::steps; ++step) {
    uint32_t a[4];
    dev::ldmatrix_x4(a, from + step * 16);
    dev::mma16816<C>(sums[step & 1], a, queries.pairs[step][0], queries.pairs[step][1]);
  }
  const int offset = warp * 16 + (lane >> 2);
  const float scale = g.attention_scale * dev::log2_e;
  float most[2] = {nothing, nothing};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = 2 * t + (i & 1), column = offset + (i >> 1) * 8, key = token + column;
    const int position = positions[i & 1];
    const bool seen = key <= position && (g.sliding_window <= 0 || key > position - g.sliding_window);
    const float score = seen ? (sums[0][i] + sums[1][i]) * scale : nothing;
    shared.scores[score_place<D>(row, column)] = score;
    most[i & 1] = fmaxf(most[i & 1], score);
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) {
#pragma unroll
    for (int step = 4; step < 32; step *= 2) most[j] = fmaxf(most[j], __shfl_xor_sync(dev::all_lanes, most[j], step));
    if (lane < 4) shared.tile_max[warp][2 * t + j] = most[j];
  }
}

/// Softmax weights of the tile in every warp; what was summed before is brought to the new maximum.
template <class C, int D>
__device__ __forceinline__ void weigh_tile(const Shared<D>& shared, Running<C, D>& running) {
  const int lane = threadIdx.x & 31, t = lane & 3, row = lane >> 2;
  float most = running.most;
#pragma unroll
  for (int w = 0; w < Sizes<D>::tokens / 16; ++w) most = fmaxf(most, shared.tile_max[w][row]);
  const float base = most == nothing ? 0.0f : most;  // no key seen so far: all weights are zero
  const float factor = dev::exp2_fast(running.most - base);
  running.most = most;
  float sum = 0;
#pragma unroll
  for (int step = 0; step < Sizes<D>::tokens / 16; ++step)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 s = *reinterpret_cast<const float2*>(shared.scores + score_place<D>(row, step * 16 + half * 8 + 2 * t));
      const float low = dev::exp2_fast(s.x - base), high = dev::exp2_fast(s.y - base);
      sum += low + high;
      running.weights[step][half] = dev::pack2<C>(low, high);
    }
  running.sum = running.sum * factor + sum;
  const float even = __shfl_sync(dev::all_lanes, factor, 8 * t), odd = __shfl_sync(dev::all_lanes, factor, 8 * t + 4);
  if (__all_sync(dev::all_lanes, factor == 1.0f)) return;
#pragma unroll
  for (int i = 0; i < Sizes<D>::values; ++i)
#pragma unroll
    for (int b = 0; b < Sizes<D>::blocks; ++b) {
      running.out[i][b][0] *= even, running.out[i][b][2] *= even;
      running.out[i][b][1] *= odd, running.out[i][b][3] *= odd;
    }
}

/// out += weights times one tile of values. Warp w has the 16-column blocks w, w + 4, ...
template <class C, int D>
__device__ __forceinline__ void add_values(const C* values, const Running<C, D>& running, float (&out)[Sizes<D>::blocks][4]) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const C* from = values + ((lane & 7) + (lane >> 4) * 8) * Sizes<D>::pitch + ((lane >> 3) & 1) * 8;
#pragma unroll
  for (int b = 0; b < Sizes<D>::blocks; ++b) {
    const int block = warp + b * warps;
    if (block >= Sizes<D>::steps) continue;
#pragma unroll
    for (int step = 0; step < Sizes<D>::tokens / 16; ++step) {
      uint32_t a[4];
      dev::ldmatrix_x4_trans(a, from + step * 16 * Sizes<D>::pitch + block * 16);
      dev::mma16816<C>(out[b], a, running.weights[step][0], running.weights[step][1]);
    }
  }
}

/// Which heads the group serves. Read after the next barrier.
template <int D>
__device__ __forceinline__ void note_heads(const DecodeArguments& a, const DecodeGroup& group, Shared<D>& shared) {
  const Geometry& g = a.geometry;
  for (int h = int(threadIdx.x); h < g.heads; h += decode_threads) {
    const int slot = group.own[g.score_of_query() + h], value = group.own[g.value_of_query() + h];
    int which_slot = -1, which_value = -1;
    for (int i = 0; i < group.slot_count; ++i)
      if (group.slots[i] == slot) which_slot = i;
    for (int i = 0; i < group.value_count; ++i)
      if (group.values[i] == value) which_value = i;
    shared.use[h] = uint16_t(which_slot < 0 || which_value < 0 ? 0 : (which_value + 1) | which_slot << 8);
  }
}

/// Walks the tiles of a unit; afterwards results lie at out[score row][value][D] over the ring and states in shared memory.
template <class C, int D>
__device__ __forceinline__ void walk(const DecodeArguments& a, const DecodeGroup& group, const Unit& unit, C* ring, Shared<D>& shared) {
  using S = Sizes<D>;
  const Geometry& g = a.geometry;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  TileStream<C, D> stream(group, g, unit);
#pragma unroll
  for (int i = 0; i < stages - 1; ++i) stream.load_next(ring + i * S::tile);
  note_heads<D>(a, group, shared);  // while the first tiles come

  const int row = lane >> 2, slot = row / group.count;
  const C* query = nullptr;
  if (slot < group.slot_count)
    query = static_cast<const C*>(a.queries[group.scores_from]) + int64_t(group.row + row % group.count) * a.query_pitch +
            group.slots[slot] * g.head_dim;
  Queries<C, D> queries;
  queries.load(query, g.head_dim);
  Running<C, D> running;
#pragma unroll
  for (int i = 0; i < S::values; ++i)
#pragma unroll
    for (int b = 0; b < S::blocks; ++b)
#pragma unroll
      for (int e = 0; e < 4; ++e) running.out[i][b][e] = 0;

  const int positions[2] = {group.position + 2 * (lane & 3) % group.count, group.position + (2 * (lane & 3) + 1) % group.count};
  int at = 0;  // place in the ring of the tile in use
  const auto next_tile = [&]() -> const C* {
    dev::cp_async_wait<stages - 2>();
    __syncthreads();  // the tile is there for all, and all are done with the one before it, whose place the next copy takes
    const int free = at == 0 ? stages - 1 : at - 1;
    stream.load_next(ring + free * S::tile);
    const C* tile = ring + at * S::tile;
    at = at == stages - 1 ? 0 : at + 1;
    return tile;
  };
  for (int tile = unit.begin; tile < unit.end; ++tile) {
    score_tile<C, D>(next_tile(), (group.first_tile + tile) * S::tokens, positions, g, queries, shared);
#pragma unroll
    for (int i = 0; i < S::values; ++i) {
      if (i >= group.value_count) break;
      const C* values = next_tile();
      if (i == 0) weigh_tile<C, D>(shared, running);
      add_values<C, D>(values, running, running.out[i]);
    }
  }
  dev::cp_async_wait<0>();
  __syncthreads();
  float* out = reinterpret_cast<float*>(ring);
#pragma unroll
  for (int i = 0; i < S::values; ++i)
#pragma unroll
    for (int b = 0; b < S::blocks; ++b) {
      const int block = warp + b * warps;
      if (i >= group.value_count || block >= S::steps) continue;
#pragma unroll
      for (int e = 0; e < 4; ++e)
        out[(2 * (lane & 3) + (e & 1)) * S::out_pitch + i * D + block * 16 + (lane >> 2) + (e >> 1) * 8] = running.out[i][b][e];
    }
  float sum = running.sum;
  sum += __shfl_xor_sync(dev::all_lanes, sum, 1);
  sum += __shfl_xor_sync(dev::all_lanes, sum, 2);
  if (warp == 0 && (lane & 3) == 0) shared.state[row][0] = running.most, shared.state[row][1] = sum;
  __syncthreads();
}

/// Where a worker leaves its part of a group: in its second place when the group begins here and goes on, else in its first.
__device__ __forceinline__ int64_t part_of(const Unit& unit, int worker) { return 2 * int64_t(worker) + (worker == unit.first_worker); }

/// Stores the unit's results; true in the block that comes last.
template <int D>
__device__ __forceinline__ bool leave_part(const DecodeArguments& a, const DecodeGroup& group, const Unit& unit, const float* out,
                                           Shared<D>& shared) {
  const int64_t part = part_of(unit, int(blockIdx.x));
  float* values = a.parts.values + part * decode_rows * Sizes<D>::values * D;
  const int rows = group.slot_count * group.count, width = group.value_count * D;
  for (int i = int(threadIdx.x); i < rows * width; i += decode_threads)
    values[i / width * (Sizes<D>::values * D) + i % width] = out[i / width * Sizes<D>::out_pitch + i % width];
  if (threadIdx.x < decode_rows)
    a.parts.states[part * decode_rows + threadIdx.x] = make_float2(shared.state[threadIdx.x][0], shared.state[threadIdx.x][1]);
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    int32_t* arrived = a.parts.arrived + unit.first_worker;
    shared.last = atomicAdd(arrived, 1) == unit.workers - 1;
    if (shared.last) *arrived = 0;  // for the next launch
  }
  __syncthreads();
  __threadfence();
  return shared.last;
}

/// Adds up the parts of a group, in the order of its tokens.
template <int D>
__device__ __forceinline__ void merge_parts(const DecodeArguments& a, const DecodeGroup& group, const Unit& unit, float* out,
                                            Shared<D>& shared) {
  float* factors = out + decode_rows * Sizes<D>::out_pitch;  // [score row][worker]
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, rows = group.slot_count * group.count;
  for (int row = warp; row < rows; row += warps) {
    float most = nothing, sum = 0;
    for (int i = lane; i < unit.workers; i += 32)
      most = fmaxf(most, __ldcg(a.parts.states + part_of(unit, unit.first_worker + i) * decode_rows + row).x);
    most = dev::max_over_lanes(most);
    for (int i = lane; i < unit.workers; i += 32) {
      const float2 state = __ldcg(a.parts.states + part_of(unit, unit.first_worker + i) * decode_rows + row);
      const float factor = dev::exp2_fast(state.x - most);  // a row sees its own key, so `most` is finite
      factors[row * most_workers + i] = factor;
      sum += state.y * factor;
    }
    sum = dev::sum_over_lanes(sum);
    if (lane == 0) shared.state[row][1] = sum;
  }
  __syncthreads();
  constexpr int at_once = 16;  // loads under way: fifty parts one after the other would take as long as the tiles before them
  const int width = group.value_count * D / 4;
  for (int i = int(threadIdx.x); i < rows * width; i += decode_threads) {
    const int row = i / width, column = i % width * 4;
    const float* from = a.parts.values + int64_t(row) * Sizes<D>::values * D + column;
    float4 sum = make_float4(0, 0, 0, 0);
    for (int begin = 0; begin < unit.workers; begin += at_once) {
      float4 part[at_once] = {};  // else it takes registers all through the kernel
#pragma unroll
      for (int w = 0; w < at_once; ++w)
        if (begin + w < unit.workers) {
          const int64_t place = part_of(unit, unit.first_worker + begin + w) * decode_rows * Sizes<D>::values * D;
          part[w] = __ldcg(reinterpret_cast<const float4*>(from + place));
        }
#pragma unroll
      for (int w = 0; w < at_once; ++w)
        if (begin + w < unit.workers) {
          const float factor = factors[row * most_workers + begin + w];
          sum.x += factor * part[w].x, sum.y += factor * part[w].y;
          sum.z += factor * part[w].z, sum.w += factor * part[w].w;
        }
    }
    *reinterpret_cast<float4*>(out + row * Sizes<D>::out_pitch + column) = sum;
  }
  __syncthreads();
}

/// mixed[row][head] of every head that this group serves.
template <int D>
__device__ __forceinline__ void write_mixed(const DecodeArguments& a, const DecodeGroup& group, const float* out, const Shared<D>& shared) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, d = a.geometry.head_dim;
  int turn = 0;
  for (int base = 0; base < a.geometry.heads; base += 32) {
    const int use = base + lane < a.geometry.heads ? shared.use[base + lane] : 0;
    for (uint32_t served = __ballot_sync(dev::all_lanes, use != 0); served; served &= served - 1) {
      const int at = __ffs(int(served)) - 1, head_use = __shfl_sync(dev::all_lanes, use, at);
      if (turn++ % warps != warp) continue;
      for (int i = 0; i < group.count; ++i) {
        const int row = (head_use >> 8) * group.count + i;
        const float factor = 1 / shared.state[row][1];
        const float* from = out + row * Sizes<D>::out_pitch + ((head_use & 0xff) - 1) * D;
        uint16_t* to = static_cast<uint16_t*>(a.mixed) + int64_t(group.row + i) * a.query_pitch + (base + at) * d;
        for (int e = lane; e < d; e += 32) to[e] = narrow_as(a.compute, from[e] * factor);
      }
    }
  }
}

template <class C, int D>
__global__ void __launch_bounds__(decode_threads, D <= 128 ? 3 : 2) decode_kernel(DecodeArguments a) {
  DEV_DYN_SMEM(unsigned char, memory);
  __shared__ DecodeGroup group;
  C* ring = reinterpret_cast<C*>(memory);
  Shared<D>& shared = *reinterpret_cast<Shared<D>*>(memory + Sizes<D>::ring_bytes);
  const DecodeHeader header = a.plan.header[a.layer];
  const int first = a.plan.first_group[int64_t(a.layer) * a.plan.workers + blockIdx.x];  // read beside the header
  dev::let_next_kernel_start();  // it asks for its weights while the last shares are read, and waits for the end of this one
  const int64_t from = int64_t(blockIdx.x) * header.share, to = from + header.share;
  if (from >= header.total) return;
  const DecodeGroup* groups = a.plan.groups + int64_t(a.layer) * a.plan.capacity;
  for (int i = first; i < header.groups; ++i) {
    static_assert(sizeof(DecodeGroup) % 8 == 0 && sizeof(DecodeGroup) / 8 <= decode_threads);
    if (threadIdx.x < sizeof(DecodeGroup) / 8)
      reinterpret_cast<uint2*>(&group)[threadIdx.x] = reinterpret_cast<const uint2*>(groups + i)[threadIdx.x];
    __syncthreads();
    if (group.start >= to) return;
    const int64_t cost = 1 + group.value_count, last = group.start + (group.tiles - 1) * cost;
    Unit unit;
    unit.begin = int(max(int64_t(0), (from - group.start + cost - 1) / cost));
    unit.end = int(min(int64_t(group.tiles), (to - group.start + cost - 1) / cost));
    unit.first_worker = int(group.start / header.share);
    unit.workers = int(last / header.share) - unit.first_worker + 1;
    if (unit.begin < unit.end) {
      walk<C, D>(a, group, unit, ring, shared);
      float* out = reinterpret_cast<float*>(ring);
      bool whole = unit.workers == 1;
      if (!whole && leave_part<D>(a, group, unit, out, shared)) merge_parts<D>(a, group, unit, out, shared), whole = true;
      if (whole) write_mixed<D>(a, group, out, shared);
    }
    __syncthreads();  // before the group, the ring and the results are overwritten
  }
}

template <int D>
constexpr size_t shared_bytes(int heads) {
  return Sizes<D>::ring_bytes + sizeof(Shared<D>) + size_t(heads) * sizeof(uint16_t);
}

}  // namespace

size_t decode_shared_bytes(int head_dim, int heads) {
  size_t bytes = 0;
  with_head_size(head_dim, [&](auto size) { bytes = shared_bytes<decltype(size)::value>(heads); });
  return bytes;
}

int decode_workers(const Config& config, const DeviceFacts& device) {
  const size_t own = decode_shared_bytes(config.head_dim, config.heads) + sizeof(DecodeGroup) + 1024;  // 1 KB of each block is the system's
  const int resident = std::clamp(int((device.shared_bytes + 1024) / own), 1, config.head_dim <= 128 ? 3 : 2);
  return std::clamp(device.processors * resident, 1, most_workers);
}

void attend_decode(const StepLaunch& step, const DecodePlan& plan, const DecodeParts& parts, int layer, const void* const* queries,
                   void* mixed) {
  const DecodeArguments arguments{
      step.view, step.geometry, plan, parts, queries, mixed, layer, pitch_of(step.geometry.heads * step.geometry.head_dim), step.compute};
  with_type(step.cache, [&](auto cache) {
    with_head_size(step.geometry.head_dim, [&](auto size) {
      constexpr int D = decltype(size)::value;
      launch(decode_kernel<decltype(cache), D>, {unsigned(plan.workers), decode_threads, shared_bytes<D>(step.geometry.heads), step.stream},
             arguments);
    });
  });
}

}  // namespace chai::cuda
