// Draws a token id from one row of logits; see sampler.h.
#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

namespace chai {
namespace {

constexpr float lowest = -std::numeric_limits<float>::infinity();

/// NaN counts as impossible, overflow as the greatest number.
float clean(float logit) {
  if (std::isnan(logit)) return lowest;
  return std::min(logit, std::numeric_limits<float>::max());
}

struct Candidate {
  float logit;  // after the repetition penalty
  int32_t id;
  double weight = 0;  // exp((logit - greatest) / temperature)
};

/// Highest logit first, lowest id among equals.
bool before(const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; }

/// All ids whose logit is not impossible, in id order.
std::vector<Candidate> candidates_of(std::span<const float> logits, const Sampling& sampling, std::span<const int32_t> history) {
  std::vector<Candidate> all;
  all.reserve(logits.size());
  const float penalty = sampling.repetition_penalty;
  std::vector<bool> seen;
  if (sampling.penalised()) {
    seen.assign(logits.size(), false);
    for (const int32_t id : history)
      if (id >= 0 && size_t(id) < seen.size()) seen[size_t(id)] = true;
  }
  for (size_t i = 0; i < logits.size(); ++i) {
    float logit = clean(logits[i]);
    if (!seen.empty() && seen[i]) logit = clean(logit < 0 ? logit * penalty : logit / penalty);
    if (logit > lowest) all.push_back({logit, int32_t(i)});
  }
  return all;
}

/// Keeps the k highest and what equals the k-th.
void keep_top_k(std::vector<Candidate>& all, int k) {
  if (k <= 0 || size_t(k) >= all.size()) return;
  std::vector<float> values(all.size());
  std::transform(all.begin(), all.end(), values.begin(), [](const Candidate& c) { return c.logit; });
  std::nth_element(values.begin(), values.begin() + (k - 1), values.end(), std::greater<>());
  const float least = values[size_t(k - 1)];
  std::erase_if(all, [&](const Candidate& c) { return c.logit < least; });
}

/// Keeps the fewest highest whose probabilities sum to at least p; one always stays.
void keep_top_p(std::vector<Candidate>& all, double p) {
  if (!(p < 1)) return;
  double total = 0;
  for (const auto& c : all) total += c.weight;
  std::sort(all.begin(), all.end(), before);
  double sum = 0;
  size_t keep = 0;
  while (keep < all.size() && (keep == 0 || sum < p * total)) sum += all[keep++].weight;
  all.resize(keep);
}

}  // namespace

double uniform(uint64_t seed, uint64_t index) {
  const auto mix = [](uint64_t z) {  // the finaliser of SplitMix64
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  };
  const uint64_t step = 0x9e3779b97f4a7c15u;
  return double(mix(mix(seed + step) + step * (index + 1)) >> 11) * 0x1p-53;
}

double log_probability(std::span<const float> logits, int32_t id) {
  if (id < 0 || size_t(id) >= logits.size()) return lowest;
  double greatest = lowest;
  for (const float logit : logits) greatest = std::max(greatest, double(clean(logit)));
  if (greatest == lowest) return lowest;
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double(clean(logit)) - greatest);
  return double(clean(logits[size_t(id)])) - greatest - std::log(sum);
}

Drawn draw(std::span<const float> logits, const Sampling& sampling, std::span<const int32_t> history, uint64_t index) {
  const auto drawn = [&](int32_t id) { return Drawn{id, sampling.logprobs ? float(log_probability(logits, id)) : 0.0f}; };
  std::vector<Candidate> all = candidates_of(logits, sampling, history);
  if (all.empty()) return drawn(0);
  const Candidate best = *std::min_element(all.begin(), all.end(), before);
  if (!(sampling.temperature > 0)) return drawn(best.id);

  keep_top_k(all, sampling.top_k);
  for (auto& c : all) c.weight = std::exp((double(c.logit) - double(best.logit)) / double(sampling.temperature));
  keep_top_p(all, double(sampling.top_p));
  if (sampling.min_p > 0)  // the most probable has weight 1
    std::erase_if(all, [&](const Candidate& c) { return c.id != best.id && c.weight < double(sampling.min_p); });

  double total = 0;
  for (const auto& c : all) total += c.weight;
  const double target = uniform(sampling.seed, index) * total;
  double sum = 0;
  for (const auto& c : all) {
    sum += c.weight;
    if (target < sum) return drawn(c.id);
  }
  return drawn(best.id);  // only when rounding left the sum below the target
}

}  // namespace chai
