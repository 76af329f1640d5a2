// Draws tokens from logits on the device; see token_sampler.h. One block a draw; results go straight to pinned host memory.
#include <algorithm>

#include "error.h"
#include "launch.cuh"
#include "token_sampler.h"
#include "token_sampler_row.cuh"

namespace chai::cuda {
namespace {

constexpr int large_vocabulary = 4096;  // from here on blocks are large

/// Marks the ids of the history; the block's own words. Ends with a barrier.
__device__ void mark_seen(const DrawRecord& draw, int vocabulary, uint32_t* seen) {
  for (int i = threadIdx.x; i < (vocabulary + 31) / 32; i += blockDim.x) seen[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < draw.history_count; i += blockDim.x) {
    const int32_t id = draw.history[i];
    if (id >= 0 && id < vocabulary) atomicOr(&seen[id / 32], 1u << (id % 32));
  }
  __syncthreads();
}

/// In device memory, since a recorded graph is replayed with other contents.
struct DrawList {
  int32_t count;
  Drawn* results;  // [draws] in host memory
};

/// Blocks take draws in turn. seen: [blocks][words]. drawn: [draws].
__global__ void __launch_bounds__(512, 1)
    draw_kernel(const DrawList* list, const DrawRecord* draws, const float* logits, int vocabulary, uint32_t* seen, int32_t* drawn) {
  __shared__ DrawScratch scratch;
  for (int d = blockIdx.x; d < list->count; d += gridDim.x) {
    const DrawRecord draw = draws[d];
    uint32_t* mine = seen + int64_t(blockIdx.x) * ((vocabulary + 31) / 32);
    if (draw.history_count > 0) mark_seen(draw, vocabulary, mine);
    DrawRow plain{};
    plain.logits = logits + int64_t(draw.logit_row) * vocabulary;
    plain.vocabulary = vocabulary, plain.penalty = 1, plain.listed = -1, plain.scratch = &scratch;
    DrawRow row = plain;
    if (draw.history_count > 0) row.seen = mine, row.penalty = draw.repetition_penalty;
    const Best best = best_of_row(row);
    const int id = draw_row(row, draw, best);
    float logprob = 0;
    if (draw.logprobs) logprob = log_probability(plain, id, (row.seen ? best_of_row(plain) : best).logit);
    if (threadIdx.x == 0) list->results[d] = {id, logprob}, drawn[d] = id;
    __syncthreads();
  }
}

}  // namespace

struct TokenSampler::State {
  int vocabulary, draws, blocks;
  PinnedArray<unsigned char> host_settings;  // [places] of a DrawList, DrawRecord[draws]
  DeviceArray<unsigned char> settings;
  PinnedArray<int32_t> host_history;  // those of one step, one after the other
  DeviceArray<int32_t> history;
  DeviceArray<uint32_t> seen;  // [blocks][ceil(vocabulary / 32)]
  PinnedArray<Drawn> results;  // [places][draws]
  DeviceArray<int32_t> drawn;  // [draws]

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
  s.results = PinnedArray<Drawn>(size_t(draws) * size_t(places), "drawn tokens");
  s.drawn = DeviceArray<int32_t>(size_t(draws), "drawn tokens");
  s.make_room(4096);
}
TokenSampler::~TokenSampler() = default;

void TokenSampler::begin(const Step& step, Stream stream, int place) {
  State& s = *state_;
  if (int(step.draws.size()) > s.draws) throw Error(Code::device_fault, "a step with more draws than rows");
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
  const unsigned threads = s.vocabulary < large_vocabulary ? 128 : 512;
  launch(draw_kernel, {dim3(unsigned(std::min(step.logit_rows, s.blocks))), dim3(threads), 0, step.stream},
         reinterpret_cast<const DrawList*>(s.settings.get()), reinterpret_cast<const DrawRecord*>(s.settings.get() + State::header), logits,
         s.vocabulary, s.seen.get(), s.drawn.get());
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
  return s.settings.count() + s.history.count() * sizeof(int32_t) + s.seen.count() * sizeof(uint32_t);
}

}  // namespace chai::cuda
