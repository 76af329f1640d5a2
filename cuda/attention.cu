// Sends each segment of a step to the kernel made for it; see attention.h. Short segments read memory (decode), long ones compute
// (prefill). Warm-up segments always take the prefill kernel, whose sums over a row's keys depend on nothing but that row, so that the
// membership found from them never depends on what else is in the batch.
#include <algorithm>

#include "attention_plan.h"
#include "error.h"
#include "launch.cuh"

namespace chai::cuda {
namespace {

bool takes_prefill(const Segment& segment) { return segment.warm_up || segment.count > decode_rows; }

/// Pairs of (score slot, up to two V slots) of a layer at most, whatever the membership turns out to be.
int pairs_at_most(const HeadPlan& plan, int layer, int heads) {
  if (plan.method == Method::dense) return heads;
  const PlanLayer& own = plan.layers[size_t(layer)];
  const int slots =
      plan.method == Method::chai ? own.rule.clusters : int(plan.layers[size_t(plan.scores_from(layer))].heads.query_of_score.size());
  const int scores = std::clamp(slots, 1, heads);
  return scores + (heads - scores) / 2;
}

}  // namespace

int padded_head_size(int head_dim) {
  int size = 0;
  with_head_size(head_dim, [&](auto built) { size = decltype(built)::value; });
  return size;
}

Attention::Attention(const Config& config, int rows, int sequences, const DeviceFacts& device, AttentionOptions options)
    : state_(std::make_unique<State>()) {
  if (config.head_dim > 256)
    throw Error(Code::unsupported_model, "head_dim " + std::to_string(config.head_dim) +
                                             " is above 256, the most that is built for a CUDA device; use device 'cpu'");
  State& s = *state_;
  s.config = config, s.device = device, s.rows = rows, s.sequences = sequences;
  s.workers = decode_workers(config, device);
  s.hopper = options.hopper_prefill && has_hopper_prefill(config, device);
  const size_t layers = size_t(config.layers), parts = 2 * size_t(s.workers) * decode_rows;
  const char* what = "the attention's work lists";
  s.headers = DeviceArray<DecodeHeader>(layers, what);
  s.groups = DeviceArray<DecodeGroup>(layers * size_t(sequences) * size_t(config.heads), what);
  s.first_group = DeviceArray<int32_t>(layers * size_t(s.workers), what);
  s.counts = DeviceArray<int32_t>(layers * size_t(sequences), what);
  s.arrived = DeviceArray<int32_t>(size_t(s.workers), what);
  s.part_values = DeviceArray<float>(parts * size_t(decode_values(config.head_dim) * padded_head_size(config.head_dim)),
                                     "the attention's partial results");
  s.part_states = DeviceArray<float2>(parts, "the attention's partial results");
  s.staged_tiles = PinnedArray<PrefillTile>(size_t(rows), what);
  s.tiles = DeviceArray<PrefillTile>(size_t(rows), what);
  fill(s.arrived.get(), 0, size_t(s.workers) * sizeof(int32_t), nullptr);
  synchronize(nullptr);
}

Attention::~Attention() = default;

bool Attention::hopper_prefill() const { return state_->hopper; }

size_t Attention::bytes() const {
  const State& s = *state_;
  return s.headers.count() * sizeof(DecodeHeader) + s.groups.count() * sizeof(DecodeGroup) +
         (s.first_group.count() + s.counts.count() + s.arrived.count()) * sizeof(int32_t) + s.part_values.count() * sizeof(float) +
         s.part_states.count() * sizeof(float2) + s.tiles.count() * sizeof(PrefillTile);
}

/// The step's prefill tiles, those that see most keys first, so that the last to start are the shortest.
void Attention::State::list_tiles(const StepLaunch& step) {
  const int tile_rows = prefill_rows(step);
  struct Entry {
    PrefillTile tile;
    int keys;
    bool shared;
  };
  std::vector<Entry> entries;
  int decode_segments = 0;
  for (int i = 0; i < int(step.host->segments.size()); ++i) {
    const Segment& segment = step.host->segments[size_t(i)];
    if (!takes_prefill(segment)) {
      ++decode_segments;
      continue;
    }
    const bool shared = !segment.warm_up && step.host->sequences[size_t(segment.sequence)].geometry->plan->method != Method::dense;
    for (int first = 0; first < segment.count; first += tile_rows)
      entries.push_back({{i, first}, segment.position + std::min(segment.count, first + tile_rows), shared});
  }
  if (decode_segments > sequences || int(entries.size()) > rows)
    throw Error(Code::device_fault, "a step with more segments than sequences were planned for");
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Entry& a, const Entry& b) { return a.shared != b.shared ? b.shared : a.keys > b.keys; });
  decode = decode_segments > 0;
  single_tiles = shared_tiles = 0;
  for (size_t i = 0; i < entries.size(); ++i) {
    staged_tiles.get()[i] = entries[i].tile;
    ++(entries[i].shared ? shared_tiles : single_tiles);
  }
  if (entries.empty()) return;
  copy_to_device(tiles.get(), staged_tiles.get(), entries.size() * sizeof(PrefillTile), step.stream);
  step_on_hopper = hopper && takes_hopper_prefill(step);
  if (!step_on_hopper) return;
  const PoolView& pages = step.host->pool;  // never more pages than the device has memory for
  pool = map_of_pages(pages.base, pages.page_bytes, pages.row_bytes, device.total_bytes / pages.page_bytes + 1, step.cache);
}

void Attention::State::attend_tiles(const StepLaunch& step, int first, int count, int groups, int values, int layer,
                                    const void* const* queries, void* mixed) {
  if (step_on_hopper)
    attend_prefill_hopper(step, pool, tiles.get() + first, count, groups, layer, queries, mixed);
  else
    attend_prefill(step, tiles.get() + first, count, groups, values, layer, queries, mixed);
}

void Attention::begin(const StepLaunch& step) {
  State& s = *state_;
  s.decode = true, s.single_tiles = s.shared_tiles = 0;
  if (step.host) s.list_tiles(step);
  // A warm-up finds membership inside the layers: their work is planned when it is known.
  if (s.decode && !step.warm_up) plan_decode(step, s.plan(), 0, s.config.layers);
}

void Attention::attend(const StepLaunch& step, int layer, const void* const* queries, void* mixed) {
  State& s = *state_;
  if (s.decode) {
    if (step.warm_up) plan_decode(step, s.plan(), layer, 1);
    attend_decode(step, s.plan(), s.parts(), layer, queries, mixed);
  }
  if (s.single_tiles) s.attend_tiles(step, 0, s.single_tiles, s.config.heads, 1, layer, queries, mixed);
  if (s.shared_tiles == 0) return;
  int pairs = 1;
  for (const Segment& segment : step.host->segments)
    if (takes_prefill(segment) && !segment.warm_up)
      pairs = std::max(pairs, pairs_at_most(*step.host->sequences[size_t(segment.sequence)].geometry->plan, layer, s.config.heads));
  s.attend_tiles(step, s.single_tiles, s.shared_tiles, pairs, 2, layer, queries, mixed);
}

}  // namespace chai::cuda
