// Fused clustered attention over head pages: decode rows and prefill chunks of many sequences in one call, every head map alike.
// In: rotated queries, pages, tables. Out: mixed[row][query head][head_dim]. Scores of a slot are computed once and weigh the V slots of
// all its members (CHAI, section 3); dense, grouped-query and cross-layer maps run through the same kernels.
#pragma once
#include "device_memory.h"
#include "step_launch.h"

namespace chai::cuda {

struct AttentionOptions {
  /// Prefill by warpgroup products and tensor copies where it is possible: compute capability 9.0, head sizes 64 and 128.
  /// Elsewhere, and without it, the kernel for every device. Results differ by rounding.
  bool hopper_prefill = false;
};

class Attention {
 public:
  Attention(const Config& config, int rows, int sequences, const DeviceFacts& device, AttentionOptions options = {});
  ~Attention();

  /// Whether the option is on and this device can do it.
  bool hopper_prefill() const;

  /// Plans the work of this step (on the device for decode rows, so that a graph may replay it); once a step, before the layers.
  void begin(const StepLaunch& step);
  /// queries: device array [layers] of pointers to each layer's queries, cache type [rows][pitch_of(H * head_dim)]; a segment reads those
  /// of the layer its scores come from. mixed: compute type, the same pitch.
  void attend(const StepLaunch& step, int layer, const void* const* queries, void* mixed);

  size_t bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace chai::cuda
