// The shape of a network as plain numbers (lib/config.ts fills it), and the weights' names. check() proves it; after that nothing defends.
#pragma once
#include <cstdint>
#include <vector>

#include "element.h"

namespace chai {

enum class NormKind : uint8_t { rms, layer };
enum class NormPlacement : uint8_t { before, after };
enum class Activation : uint8_t { silu, relu, gelu, gelu_tanh };

struct Config {
  int layers = 0, heads = 0, key_value_heads = 0, head_dim = 0;
  int hidden = 0;        // width of the residual stream
  int embedding = 0;     // width of the token embedding (= hidden but for OPT's embedding projection)
  int intermediate = 0;  // width inside the feed-forward block
  int vocabulary = 0, context = 0;
  NormKind norm = NormKind::rms;
  NormPlacement norm_placement = NormPlacement::before;
  float norm_epsilon = 1e-5f;
  Activation activation = Activation::silu;
  bool gated = true;
  float attention_scale = 0;              // usually 1/sqrt(head_dim)
  int sliding_window = 0;                 // keys a query sees, itself included; 0 = all
  std::vector<float> rotary_frequencies;  // [head_dim/2], or empty
  float rotary_scale = 1;
  int position_offset = 0;  // OPT: 2

  int query_width() const { return heads * head_dim; }
  int key_value_width() const { return key_value_heads * head_dim; }
};

/// Throws model_invalid when a size is not positive, too large for the engine's int arithmetic, or does not fit another.
void check(const Config& config);

}  // namespace chai
