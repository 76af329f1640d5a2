// Passes over a row of logits; see logit_row.h.
#include "logit_row.h"

#include "exponential.h"

namespace chai {
namespace {

using Four [[gnu::vector_size(16)]] = float;
using FourWide [[gnu::vector_size(32)]] = double;

Four load(const float* x) {
  Four four;
  __builtin_memcpy(&four, x, sizeof four);
  return four;
}
Four greater(Four a, Four b) { return a > b ? a : b; }  // b where a is NaN

float greatest_of(Four x) { return std::max(std::max(x[0], x[1]), std::max(x[2], x[3])); }

}  // namespace

float greatest_of_sixteen(const float* x) {
  const Four lowest = Four{} + lowest_logit;
  return greatest_of(greater(load(x), greater(load(x + 4), greater(load(x + 8), greater(load(x + 12), lowest)))));
}

float highest_logit(std::span<const float> logits) {
  Four most[4];
  for (Four& four : most) four = Four{} + lowest_logit;
  size_t i = 0;
  for (; i + 16 <= logits.size(); i += 16)
    for (size_t k = 0; k < 4; ++k) most[k] = greater(load(logits.data() + i + 4 * k), most[k]);
  float highest = greatest_of(greater(greater(most[0], most[1]), greater(most[2], most[3])));
  for (; i < logits.size(); ++i) highest = logits[i] > highest ? logits[i] : highest;
  return std::min(highest, greatest_logit);
}

void weigh(std::span<const float> logits, float highest, float inverse_temperature, float* weights) {
  for (size_t i = 0; i < logits.size(); ++i) {
    const float x = choose(logits[i] > greatest_logit, greatest_logit, logits[i]);
    weights[i] = exp_of((x - highest) * inverse_temperature);
  }
}

double sum_of_weights(std::span<const float> weights, float least) {
  FourWide sums[2] = {};
  const Four bound = Four{} + least, none{};
  size_t i = 0;
  for (; i + 8 <= weights.size(); i += 8)
    for (size_t k = 0; k < 2; ++k) {
      const Four w = load(weights.data() + i + 4 * k);
      sums[k] += __builtin_convertvector(w >= bound ? w : none, FourWide);
    }
  const FourWide both = sums[0] + sums[1];
  double sum = (both[0] + both[1]) + (both[2] + both[3]);
  for (; i < weights.size(); ++i) sum += weights[i] >= least ? double(weights[i]) : 0.0;
  return sum;
}

}  // namespace chai
