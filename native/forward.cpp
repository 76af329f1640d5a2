// The forward pass, in the order of the papers; see forward.h.
#include "forward.h"

namespace chai {

void forward(Backend& backend, const ModelWeights& weights, const Step& step, Activations& activations) {
  auto& [x, mixed, queries, logits] = activations;
  backend.begin(step);
  backend.embed(step, weights, x);
  for (int layer = 0; layer < int(weights.layers.size()); ++layer) {
    const LayerWeights& w = weights.layers[layer];
    backend.qkv(step, Phase::warm_up, layer, w, x, queries[layer]);  // all heads of tokens < S+W
    backend.cluster(step, layer, queries[layer]);                    // membership where a warm-up ends here (CHAI, section 3)
    backend.qkv(step, Phase::rest, layer, w, x, queries[layer]);     // only the heads that the tables name
    backend.attend(step, layer, queries, mixed);
    backend.output(step, w, mixed, x);
    backend.feed_forward(step, w, x);
  }
  if (!step.logit_rows.empty()) backend.logits(step, weights, x, logits);
  if (!step.draws.empty()) backend.sample(step, logits);
  backend.submit(step);
}

}  // namespace chai
