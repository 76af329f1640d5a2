// The shared state of the attention kernels: scratch buffers and the launchers of their parts. In: steps. Out: enqueued kernels.
#pragma once
#include "attention.h"
#include "attention_pages.cuh"
#include "tensor_map.h"

namespace chai::cuda {

constexpr int decode_rows = 8;     // rows of a segment at most, and score rows of a unit of work
constexpr int most_values = 8;     // V slots of a unit of work at most
constexpr int few_values = 4;      // V slots of a unit in a step with little to read
constexpr int most_workers = 768;  // blocks of the decode kernel
constexpr int least_share = 6;     // tiles that a worker reads at least, K and V counted apart
constexpr int wide_share = 32;     // tiles of values that dense heads would give a worker from which units take most_values
constexpr int decode_threads = 128;

/// V slots of a unit of work for this head size: as many as a thread has registers for. A K slot with more is read once for every so many.
constexpr int decode_values(int head_dim) { return head_dim <= 128 ? most_values : few_values; }

/// Score rows of one sequence that share a K slot, and the V slots they weigh; K and V are read once for all of them.
/// Score row j is row j % count of the segment with the queries of slots[j / count].
struct DecodeGroup {
  const int32_t* key_ids;                 // page ids, block b at key_ids[b * stride]
  const int32_t* value_ids[most_values];  // likewise
  const int32_t* own;                     // the layer's head table
  const unsigned char* pool;  // as page_bytes and head_dim: a worker keeps its group in shared memory, and has few registers left
  uint64_t page_bytes;
  int64_t start;                 // tiles (K and V counted apart) of all groups before this one
  int32_t tiles, first_tile;     // runs of tile_tokens positions: [first_tile, first_tile + tiles)
  int32_t row, count, position;  // of the segment
  int32_t scores_from, head_dim;
  int32_t key_stride, value_stride;
  int16_t slot_count, value_count;
  int16_t slots[decode_rows];
  int16_t values[most_values];
};

/// A layer's decode work, cut evenly: worker w reads the tiles [w * share, (w + 1) * share) of `total`.
struct DecodeHeader {
  int64_t total, share;
  int32_t groups;
};

struct DecodePlan {
  DecodeHeader* header;  // [layers]
  DecodeGroup* groups;   // [layers][capacity]
  int32_t* first_group;  // [layers][workers] the group in which a worker's share begins
  int32_t* counts;       // [layers][sequences] scratch
  int32_t capacity, workers, sequences;
};

/// What a unit that shares its group with other workers leaves for the last of them: two a worker.
struct DecodeParts {
  float* values;     // [2 * workers][decode_rows][decode_values(head size)][head size]
  float2* states;    // [2 * workers][decode_rows] largest score (times log2 e), sum of weights
  int32_t* arrived;  // [workers] units of the group that begins in this worker, zero between launches
};

/// One block of prefill work: up to prefill_rows rows of a segment from its row `first`.
struct PrefillTile {
  int32_t segment, first;
};

struct Attention::State {
  Config config;
  DeviceFacts device;
  int rows, sequences, workers;
  DeviceArray<DecodeHeader> headers;
  DeviceArray<DecodeGroup> groups;
  DeviceArray<int32_t> first_group, counts, arrived;
  DeviceArray<float> part_values;
  DeviceArray<float2> part_states;
  PinnedArray<PrefillTile> staged_tiles;
  DeviceArray<PrefillTile> tiles;
  // of the running step
  int single_tiles = 0, shared_tiles = 0;  // tiles of segments whose heads all have their own scores; of the others, behind them
  bool decode = true;
  bool hopper = false;          // the option is on and the device has what it takes
  bool step_on_hopper = false;  // and the running step's prefill tiles too
  dev::TensorMap pool;          // of the running step

  void list_tiles(const StepLaunch& step);
  DecodePlan plan() const {
    return {headers.get(), groups.get(), first_group.get(), counts.get(), sequences * config.heads, workers, sequences};
  }
  void attend_tiles(const StepLaunch& step, int first, int count, int groups, int values, int layer, const void* const* queries,
                    void* mixed);
  DecodeParts parts() const { return {part_values.get(), part_states.get(), arrived.get()}; }
};

/// Smallest built head size that holds head_dim.
int padded_head_size(int head_dim);
/// Dynamic shared memory of the decode kernel, and how many of its blocks a multiprocessor is meant to hold.
size_t decode_shared_bytes(int head_dim, int heads);
int decode_workers(const Config& config, const DeviceFacts& device);

/// Rows of a prefill tile.
int prefill_rows(const StepLaunch& step);

void plan_decode(const StepLaunch& step, const DecodePlan& plan, int first_layer, int layers);
void attend_decode(const StepLaunch& step, const DecodePlan& plan, const DecodeParts& parts, int layer, const void* const* queries,
                   void* mixed);
/// `values`: V slots that one block may weigh with the same scores, 1 or 2 (1 where only one fits). `groups`: of (score slot, up to
/// `values` V slots) a layer at most.
void attend_prefill(const StepLaunch& step, const PrefillTile* tiles, int count, int groups, int values, int layer,
                    const void* const* queries, void* mixed);

/// The same for Hopper: whether a model of this shape can have it on this device, whether a step is of the right types and pages, and the
/// launch, with as many V slots a block as the head maps give, up to two.
bool has_hopper_prefill(const Config& config, const DeviceFacts& device);
bool takes_hopper_prefill(const StepLaunch& step);
void attend_prefill_hopper(const StepLaunch& step, const dev::TensorMap& pool, const PrefillTile* tiles, int count, int groups, int layer,
                           const void* const* queries, void* mixed);

}  // namespace chai::cuda
