// Passes over a row of logits, several at a time. In: float32 logits as a model gives them. Out: the highest, weights, sums in float64;
// what is not below a bound. NaN counts as impossible, overflow as the greatest number.
#pragma once
#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>

namespace chai {

constexpr float lowest_logit = -std::numeric_limits<float>::infinity();  // of what is impossible
constexpr float greatest_logit = std::numeric_limits<float>::max();

inline float clean_logit(float logit) { return logit == logit ? std::min(logit, greatest_logit) : lowest_logit; }

/// The lowest where nothing is possible.
float highest_logit(std::span<const float> logits);

/// weights[i] = exp((logits[i] - highest) * inverse_temperature), NaN for NaN; highest: that of all, not the lowest.
void weigh(std::span<const float> logits, float highest, float inverse_temperature, float* weights);

/// The sum of those of at least `least`, in a fixed order; NaN is passed over.
double sum_of_weights(std::span<const float> weights, float least = 0);

/// The greatest of 16 values; NaN is passed over.
float greatest_of_sixteen(const float* x);

/// visit(index) for values of at least `least`, which visit() may raise; in the order of the row. Few are thought to be.
template <class Visit>
void each_from(std::span<const float> x, const float& least, Visit visit) {
  size_t i = 0;
  for (; i + 16 <= x.size(); i += 16) {
    if (!(greatest_of_sixteen(x.data() + i) >= least)) continue;
    for (size_t k = i; k < i + 16; ++k)
      if (x[k] >= least) visit(k);
  }
  for (; i < x.size(); ++i)
    if (x[i] >= least) visit(i);
}

}  // namespace chai
