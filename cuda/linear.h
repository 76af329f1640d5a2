// Everything of a step that is a matrix product: embedding, projections, feed-forward, logits, with the norms, rotations and cache writes
// fused into them. In: weights, activations, the step's tables. Out: activations and cache rows. One pass over the weights a call.
//
// Activations: x float32 [rows][pitch_of(hidden)], the residual stream. queries (cache type) and mixed (compute type):
// [rows][pitch_of(H * head_dim)], slots and heads `head_dim` apart. logits float32 [logit_rows][vocabulary]. Padding between width and
// pitch is zero and stays zero.
//
// Row bits: in a step with warm-up rows every product runs through kernels whose result for a row depends on neither the other rows nor the
// row's place (a fixed order of the sum, no split of K), so that membership never depends on the batch (DESIGN: warm-up rows). A library
// never sees warm-up rows.
#pragma once
#include "cublas.h"
#include "device_memory.h"
#include "step_launch.h"

namespace chai::cuda {

class Linear {
 public:
  /// Buffers for steps of up to `rows` rows. `library` takes over large products, where it is there and ready.
  Linear(const Config& config, Element compute, int rows, const DeviceFacts& device, std::unique_ptr<Cublas> library = nullptr);
  ~Linear();

  /// The StepView's rotary tables, [rows][head_dim / 2], filled by `rotate_tables` from the step's positions.
  float* cosines() const;
  float* sines() const;
  void rotary_tables(const StepLaunch& step);

  /// Arguments and results as the functions of the same names in native/backend.h.
  void embed(const StepLaunch& step, const ModelWeights& weights, float* x);
  void qkv(const StepLaunch& step, Phase phase, int layer, const LayerWeights& weights, const float* x, void* queries);
  void output(const StepLaunch& step, const LayerWeights& weights, const void* mixed, float* x);
  void feed_forward(const StepLaunch& step, const LayerWeights& weights, float* x);
  void logits(const StepLaunch& step, const ModelWeights& weights, const float* x, float* logits);

  /// Device bytes held.
  size_t bytes() const;
  /// Null: none was given.
  const Cublas* library() const;

  struct State;  // linear_state.h

 private:
  std::unique_ptr<State> state_;
};

}  // namespace chai::cuda
