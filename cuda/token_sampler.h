// Draws tokens from logits on the device: the same transforms, random numbers and ties as native/sampler.h. In: logits, settings, tokens so
// far. Out: ids and log-probabilities in pinned memory.
#pragma once
#include "device_memory.h"
#include "step_launch.h"

namespace chai::cuda {

class TokenSampler {
 public:
  TokenSampler(const Config& config, int draws, const DeviceFacts& device);
  ~TokenSampler();

  /// Uploads settings and histories of the step's draws.
  void begin(const Step& step, Stream stream);
  /// logits: float32 [logit_rows][vocabulary]. Enqueues the draws and the copy of the results to the host.
  void sample(const StepLaunch& step, const float* logits);
  /// After the stream was synchronised: fills step.drawn and step.logprobs.
  void finish(Step& step);

  size_t bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace chai::cuda
