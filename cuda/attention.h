// Fused clustered attention over head pages: decode rows and prefill chunks of many sequences in one call, every head map alike.
// In: rotated queries, pages, tables. Out: mixed[row][query head][head_dim]. Scores of a slot are computed once and weigh the V slots of
// all its members (CHAI, section 3); dense, grouped-query and cross-layer maps run through the same kernels.
#pragma once
#include "device_memory.h"
#include "step_launch.h"

namespace chai::cuda {

class Attention {
 public:
  Attention(const Config& config, int rows, int sequences, const DeviceFacts& device);
  ~Attention();

  /// Plans the work of this step (on the device for decode rows, so that a graph may replay it); once a step, before the layers.
  void begin(const StepLaunch& step);
  /// queries: device array [layers] of pointers to each layer's queries, compute type [rows][pitch_of(H * head_dim)]; a segment reads those
  /// of the layer its scores come from. mixed: compute type, the same pitch.
  void attend(const StepLaunch& step, int layer, const void* const* queries, void* mixed);

  size_t bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace chai::cuda
