// Draws tokens from logits on the device; see token_sampler.h. Rows are cut into slices, a block each: the best of all (1), and unless all
// draws are greedy, what the first filter needs of each (2, 3) and what it may keep (4); one block a draw ends it (5). Results go straight
// to pinned host memory.
#include <algorithm>

#include "error.h"
#include "launch.cuh"
#include "token_sampler.h"
#include "token_sampler_slice.cuh"

namespace chai::cuda {
namespace {

constexpr int finish_threads = 256;

/// In device memory, since a recorded graph is replayed with other contents.
struct DrawList {
  int32_t count;
  Drawn* results;  // [draws] in host memory
};

/// What all kernels are given.
struct DrawArguments {
  const DrawList* list;
  const DrawRecord* draws;
  const float* logits;  // [logit rows][vocabulary]
  int vocabulary, slice_count;
  DrawSlice* slices;  // [draws][slices]
  DrawnFrom* kept;    // [draws]: what the first filter may keep
  uint32_t* seen;     // [blocks of finish_draws][words]
  int32_t* drawn;     // [draws]

  __device__ DrawRow row_of(const DrawRecord& draw, DrawScratch& scratch) const {
    return DrawRow(logits + int64_t(draw.logit_row) * vocabulary, vocabulary, scratch);
  }
  __device__ Slices slices_of(int draw) const { return {slices + int64_t(draw) * slice_count, slice_count}; }
  __device__ DrawSlice& slice_of(int draw, int slice) const { return slices[int64_t(draw) * slice_count + slice]; }
};

struct SliceMemory {
  DrawScratch scratch;
  uint32_t seen[slice_ids / 32];
};

/// For blocks of a grid of slices x draws, once the kernel before has ended: whether there is a draw for this one.
__device__ bool has_draw(const DrawArguments& a) {
  dev::wait_for_previous_kernel();
  dev::let_next_kernel_start();
  return int(blockIdx.y) < a.list->count;
}
__device__ DrawRow slice_of_row(const DrawArguments& a, const DrawRecord& draw, SliceMemory& shared) {
  DrawRow row = a.row_of(draw, shared.scratch);
  take_slice(row, int(blockIdx.x));
  return row;
}

/// Grid: slices x draws.
__global__ void __launch_bounds__(slice_threads) find_best(DrawArguments a) {
  __shared__ SliceMemory shared;
  if (!has_draw(a)) return;
  const int slice = int(blockIdx.x), d = int(blockIdx.y);
  const DrawRecord draw = a.draws[d];
  const DrawRow plain = slice_of_row(a, draw, shared);
  DrawRow row = plain;
  penalise(row, draw, shared.seen);
  const uint64_t best = best_of_row(row), greatest = row.seen && draw.logprobs ? best_of_row(plain) : best;
  if (threadIdx.x == 0) a.slice_of(d, slice).best = best, a.slice_of(d, slice).greatest = Best(greatest).logit;
}

/// Pass 0, and log-probabilities; or pass 1, of the draws that need it. Grid: slices x draws.
__global__ void __launch_bounds__(slice_threads, 2) sum_slices(DrawArguments a, int pass) {
  __shared__ SliceMemory shared;
  if (!has_draw(a)) return;
  const int slice = int(blockIdx.x), d = int(blockIdx.y);
  const DrawRecord draw = a.draws[d];
  DrawRow row = slice_of_row(a, draw, shared);
  if (draw.logprobs && pass == 0) {
    const float greatest = a.slices_of(d).greatest();
    double sum = 0;
    each_id(row, [&](int, float x) { sum += double(__expf(x - greatest)); });
    sum = block_sum(sum, shared.scratch.sums);
    if (threadIdx.x == 0) a.slice_of(d, slice).sum = sum;
  }
  if (draw.greedy() || (pass > 0 && !draw.filtered(a.vocabulary))) return;
  const Best best = a.slices_of(d).best();
  if (best.logit == lowest_logit) return;
  row.heat(best.logit, draw.temperature);
  const SliceSearch found = search_of(row, draw, a.slices_of(d), slice, pass);
  if (found.fits() || !found.search.open()) return;
  penalise(row, draw, shared.seen);
  sum_slice(row, draw, found.search, a.slice_of(d, slice).passes[pass]);
}

/// Grid: slices x draws.
__global__ void __launch_bounds__(slice_threads, 2) list_slices(DrawArguments a) {
  __shared__ SliceMemory shared;
  if (!has_draw(a)) return;
  const int slice = int(blockIdx.x), d = int(blockIdx.y);
  const DrawRecord draw = a.draws[d];
  if (draw.greedy() || !draw.filtered(a.vocabulary)) return;
  const Best best = a.slices_of(d).best();
  if (best.logit == lowest_logit) return;
  DrawRow row = slice_of_row(a, draw, shared);
  row.heat(best.logit, draw.temperature);
  const SliceSearch found = search_of(row, draw, a.slices_of(d), slice, slice_passes);
  if (!found.fits()) return;
  penalise(row, draw, shared.seen);
  DrawnFrom& kept = a.kept[d];
  list_kept(row, {-greatest_logit, a.vocabulary}, found.search.low, found.before,
            [&](int place, int id, float x) { kept.logits[place] = x, kept.ids[place] = id; });
}

/// The id of a draw that is not greedy; negative: nothing has a weight.
__device__ int finish_draw(const DrawArguments& a, int d, const DrawRecord& draw, const Best& best, DrawScratch& scratch, DrawnFrom& list) {
  DrawRow row = a.row_of(draw, scratch);
  row.heat(best.logit, draw.temperature), row.list = &list;
  const Slices slices = a.slices_of(d);
  SliceSearch found;
  double before = 0, target = -1;
  const bool filtered = draw.filtered(a.vocabulary);
  if (filtered) {
    found = search_of(row, draw, slices, 0, slice_passes);
  } else {
    target = draw.uniform * slices.sum([](const DrawSlice& s, int) { return s.passes[0].mass[0]; });
    if (!choose_slice(row, slices, target, before)) return -1;
  }
  if (filtered && found.fits()) {
    const DrawnFrom& kept = a.kept[d];
#pragma unroll 1
    for (int i = int(threadIdx.x); i < found.listed; i += int(blockDim.x)) list.logits[i] = kept.logits[i], list.ids[i] = kept.ids[i];
    row.listed = found.listed;
    __syncthreads();
  } else {
    penalise(row, draw, a.seen + int64_t(blockIdx.x) * ((a.vocabulary + 31) / 32));
  }
  return draw_row(row, draw, found.search, before, target);
}

/// Blocks take draws in turn.
__global__ void __launch_bounds__(finish_threads) finish_draws(DrawArguments a) {
  __shared__ DrawScratch scratch;
  __shared__ DrawnFrom list;
  dev::wait_for_previous_kernel();
  dev::let_next_kernel_start();
  for (int d = int(blockIdx.x); d < a.list->count; d += int(gridDim.x)) {
    const DrawRecord draw = a.draws[d];
    const Slices slices = a.slices_of(d);
    const Best best = slices.best();
    int id = best.id;
    if (best.logit != lowest_logit && !draw.greedy()) id = finish_draw(a, d, draw, best, scratch, list);
    if (id < 0) id = best.id;
    float logprob = 0;
    if (draw.logprobs) {
      const float greatest = slices.greatest(), logit = clean_logit(a.logits[int64_t(draw.logit_row) * a.vocabulary + id]);
      const double sum = greatest == lowest_logit ? 1 : slices.sum([](const DrawSlice& s, int) { return s.sum; });
      logprob = greatest == lowest_logit ? lowest_logit : float(double(logit) - double(greatest) - log(sum));
    }
    if (threadIdx.x == 0) a.list->results[d] = {id, logprob}, a.drawn[d] = id;
    __syncthreads();
  }
}

}  // namespace

struct TokenSampler::State {
  int vocabulary, draws, blocks, slice_count;
  bool early;                                // kernels may start while those before them end
  Kind kind = Kind::none;                    // of the step begun last
  PinnedArray<unsigned char> host_settings;  // [places] of a DrawList, DrawRecord[draws]
  DeviceArray<unsigned char> settings;
  PinnedArray<int32_t> host_history;  // those of one step, one after the other
  DeviceArray<int32_t> history;
  DeviceArray<DrawSlice> slices;  // [draws][slices]
  DeviceArray<DrawnFrom> kept;    // [draws]
  DeviceArray<uint32_t> seen;     // [blocks][ceil(vocabulary / 32)]
  PinnedArray<Drawn> results;     // [places][draws]
  DeviceArray<int32_t> drawn;     // [draws]

  static constexpr size_t header = 16;
  static_assert(sizeof(DrawList) == header && sizeof(DrawRecord) % 8 == 0);
  unsigned char* place_of(int place) const { return host_settings.get() + size_t(place) * settings.count(); }
  Drawn* results_of(int place) const { return results.get() + size_t(place) * size_t(draws); }
  /// Kernels find the history through the records, so it may move between steps.
  void make_room(size_t tokens) {
    if (tokens <= history.count()) return;
    const size_t room = std::max(tokens, history.count() * 2);
    history = {};  // counts as no room until both are there
    host_history = PinnedArray<int32_t>(room, "tokens so far, for the repetition penalty");
    history = DeviceArray<int32_t>(room, "tokens so far, for the repetition penalty");
  }
};

TokenSampler::TokenSampler(const Config& config, int draws, const DeviceFacts& device, int places) : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.vocabulary = config.vocabulary, s.draws = draws, s.blocks = std::min(draws, 2 * std::max(1, device.processors));
  const size_t bytes = State::header + size_t(draws) * sizeof(DrawRecord);
  s.host_settings = PinnedArray<unsigned char>(bytes * size_t(places), "settings of draws");
  s.settings = DeviceArray<unsigned char>(bytes, "settings of draws");
  s.seen = DeviceArray<uint32_t>(size_t(s.blocks) * size_t((config.vocabulary + 31) / 32), "marks of the repetition penalty");
  s.slice_count = (config.vocabulary + slice_ids - 1) / slice_ids;
  s.early = code_version(find_best) >= 90;
  s.slices = DeviceArray<DrawSlice>(size_t(draws) * size_t(s.slice_count), "slices of draws");
  s.kept = DeviceArray<DrawnFrom>(size_t(draws), "ids that draws may keep");
  s.results = PinnedArray<Drawn>(size_t(draws) * size_t(places), "drawn tokens");
  s.drawn = DeviceArray<int32_t>(size_t(draws), "drawn tokens");
  s.make_room(4096);
}
TokenSampler::~TokenSampler() = default;

TokenSampler::Kind TokenSampler::kind_of(const Step& step) {
  if (step.draws.empty()) return Kind::none;
  const auto greedy = [](const Draw& draw) { return !(draw.sampling.temperature > 0) && !draw.sampling.logprobs; };
  return std::all_of(step.draws.begin(), step.draws.end(), greedy) ? Kind::greedy : Kind::any;
}

void TokenSampler::begin(const Step& step, Stream stream, int place) {
  State& s = *state_;
  s.kind = kind_of(step);
  if (int(step.draws.size()) > s.draws) throw Error(Code::device_fault, "a step with more draws than there is room for");
  size_t tokens = 0;
  for (const Draw& draw : step.draws) tokens += draw.sampling.penalised() ? draw.history.size() : 0;
  s.make_room(tokens);
  unsigned char* const settings = s.place_of(place);
  *reinterpret_cast<DrawList*>(settings) = {int32_t(step.draws.size()), s.results_of(place)};
  DrawRecord* const records = reinterpret_cast<DrawRecord*>(settings + State::header);
  size_t at = 0;
  for (size_t i = 0; i < step.draws.size(); ++i) {
    const Draw& draw = step.draws[i];
    const Sampling& sampling = draw.sampling;
    const size_t length = sampling.penalised() ? draw.history.size() : 0;
    std::copy_n(draw.history.begin(), length, s.host_history.get() + at);
    records[i] = {draw.logit_row, sampling.temperature, sampling.top_p,  sampling.min_p,       sampling.repetition_penalty,
                  sampling.top_k, sampling.logprobs,    int32_t(length), s.history.get() + at, uniform(sampling.seed, draw.index)};
    at += length;
  }
  copy_to_device(s.settings.get(), settings, State::header + step.draws.size() * sizeof(DrawRecord), stream);
  if (at > 0) copy_to_device(s.history.get(), s.host_history.get(), at * sizeof(int32_t), stream);
}

void TokenSampler::sample(const StepLaunch& step, const float* logits) {
  if (step.logit_rows == 0) return;
  const State& s = *state_;
  const int draws = std::min(step.logit_rows, s.draws);
  const DrawArguments arguments{reinterpret_cast<const DrawList*>(s.settings.get()),
                                reinterpret_cast<const DrawRecord*>(s.settings.get() + State::header),
                                logits,
                                s.vocabulary,
                                s.slice_count,
                                s.slices.get(),
                                s.kept.get(),
                                s.seen.get(),
                                s.drawn.get()};
  const Launch of_slices{dim3(unsigned(s.slice_count), unsigned(draws)), dim3(slice_threads), 0, step.stream, s.early};
  launch(find_best, of_slices, arguments);
  if (s.kind == Kind::any) {
    for (int pass = 0; pass < slice_passes; ++pass) launch(sum_slices, of_slices, arguments, pass);
    launch(list_slices, of_slices, arguments);
  }
  launch(finish_draws, {dim3(unsigned(std::min(draws, s.blocks))), dim3(finish_threads), 0, step.stream, s.early}, arguments);
}

const int32_t* TokenSampler::drawn() const { return state_->drawn.get(); }

void TokenSampler::finish(Step& step, int place) {
  const Drawn* results = state_->results_of(place);
  step.drawn.resize(step.draws.size());
  step.logprobs.resize(step.draws.size());
  for (size_t i = 0; i < step.draws.size(); ++i) step.drawn[i] = results[i].id, step.logprobs[i] = results[i].logprob;
}

size_t TokenSampler::bytes() const {
  const State& s = *state_;
  return s.settings.count() + s.history.count() * sizeof(int32_t) + s.slices.count() * sizeof(DrawSlice) +
         s.kept.count() * sizeof(DrawnFrom) + s.seen.count() * sizeof(uint32_t);
}

}  // namespace chai::cuda
