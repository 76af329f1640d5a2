// Draws tokens from logits on the device: the same transforms, random numbers and ties as native/sampler.h. In: logits, settings, tokens so
// far. Out: ids and log-probabilities in pinned memory, ids also in device memory for the step that follows.
#pragma once
#include "device_memory.h"
#include "step_launch.h"

namespace chai::cuda {

class TokenSampler {
 public:
  /// What a step draws: decides which kernels are launched, so a graph that was recorded serves its kind alone.
  enum class Kind : uint8_t { none, greedy, any };
  static Kind kind_of(const Step& step);

  /// For steps of up to `draws` draws, `places` of which may be in flight at once.
  TokenSampler(const Config& config, int draws, const DeviceFacts& device, int places = 1);
  ~TokenSampler();

  /// Uploads settings and histories of the step's draws. A place must not be used again before `finish`; histories have a single place.
  void begin(const Step& step, Stream stream, int place = 0);
  /// logits: float32 [logit_rows][vocabulary]. Enqueues draws of the kind that `begin` saw last; the results go to the place it named.
  void sample(const StepLaunch& step, const float* logits);
  /// Once the step is over on the device: fills step.drawn and step.logprobs.
  void finish(Step& step, int place = 0);
  /// Device [draws]: ids of the last step enqueued, for what is enqueued behind it.
  const int32_t* drawn() const;

  size_t bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace chai::cuda
