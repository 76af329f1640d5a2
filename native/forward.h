// The forward pass, written once for every backend. In: a planned Step and the weights. Out: work on the device, which leaves cache rows,
// logits, drawn tokens.
#pragma once
#include <vector>

#include "backend.h"

namespace chai {

/// Buffers of one step, sized once. Layers whose scores a later layer may use own their queries; the others share one buffer.
struct Activations {
  Rows x;                     // [rows x hidden] residual stream
  Rows mixed;                 // [rows x heads * head_dim] attention output, query-head order
  std::vector<Rows> queries;  // [layers], each [rows x heads * head_dim], score-slot order, rotated
  Rows logits;                // [logit rows x vocabulary] float32
};

/// From `begin` to `submit`: what is left is to finish the step.
void forward(Backend& backend, const ModelWeights& weights, const Step& step, Activations& activations);

}  // namespace chai
