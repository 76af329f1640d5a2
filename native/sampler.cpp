// Draws a token id from one row of logits; see sampler.h. What touches the whole row is in logit_row.h; filters then see only those that
// may be kept. Weights are float32 while they are of the whole row, else float64; sums are float64.
#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "logit_row.h"

namespace chai {
namespace {

using Candidate = DrawBuffers::Candidate;
constexpr size_t block = 512;  // ids whose weights are summed at once

/// Highest logit first, lowest id among equals.
bool before(const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.id < b.id; }

double sum_of(std::span<const Candidate> some) {
  double sum = 0;
  for (const Candidate& c : some) sum += c.weight;
  return sum;
}

/// The row under the repetition penalty, which is applied once to each id of the history.
std::span<const float> penalised(std::span<const float> logits, float penalty, std::span<const int32_t> history, DrawBuffers& buffers) {
  buffers.logits.assign(logits.begin(), logits.end());
  for (const int32_t id : history) {
    if (id < 0 || size_t(id) >= logits.size()) continue;
    const float logit = clean_logit(logits[size_t(id)]);
    buffers.logits[size_t(id)] = logit < 0 ? logit * penalty : logit / penalty;
  }
  return buffers.logits;
}

/// The k-th highest of what is possible; when that is fewer, what none of it is below.
float kth_highest(std::span<const float> logits, size_t k, std::vector<float>& values) {
  values.clear();
  if (k > 256) {
    for (const float logit : logits)
      if (logit > lowest_logit) values.push_back(clean_logit(logit));
    if (values.size() <= k) return -greatest_logit;
    std::nth_element(values.begin(), values.begin() + long(k - 1), values.end(), std::greater<>());
    return values[k - 1];
  }
  float least = -greatest_logit;  // of the k highest so far, a heap with the lowest first
  each_from(logits, least, [&](size_t i) {
    values.push_back(clean_logit(logits[i]));
    std::push_heap(values.begin(), values.end(), std::greater<>());
    if (values.size() <= k) return;
    std::pop_heap(values.begin(), values.end(), std::greater<>());
    values.pop_back();
    least = values.front();
  });
  return values.front();
}

/// The fewest highest whose weights reach the goal (strictly: exceed it), or all: they come first, and the last of them is the lowest.
size_t reach(std::span<Candidate> all, double goal, bool strict) {
  size_t low = 0, high = all.size();
  double above = 0;  // weight of all before `low`
  while (high - low > 1) {
    const size_t middle = low + (high - low) / 2;
    std::nth_element(all.begin() + long(low), all.begin() + long(middle), all.begin() + long(high), before);
    const double sum = above + sum_of(all.subspan(low, middle - low));
    if (strict ? sum > goal : sum >= goal)
      high = middle;
    else
      low = middle, above = sum;
  }
  return high;
}

/// The first id, in the order of ids, at which the running weight exceeds its share of all.
int32_t draw_of_row(std::span<const float> weights, float least, double share, std::vector<double>& sums, int32_t otherwise) {
  sums.clear();
  for (size_t i = 0; i < weights.size(); i += block)
    sums.push_back(sum_of_weights(weights.subspan(i, std::min(block, weights.size() - i)), least));
  double total = 0, running = 0;
  for (const double sum : sums) total += sum;
  const double target = share * total;
  size_t i = 0;
  for (const double sum : sums) {
    if (target < running + sum) break;
    running += sum, i += block;
  }
  for (; i < weights.size(); ++i) {
    running += weights[i] >= least ? double(weights[i]) : 0.0;
    if (target < running) return int32_t(i);
  }
  return otherwise;  // only when rounding left the sum below the target
}

/// Lists the k highest and what equals the k-th, in the order of ids. Returns what they weigh.
double list_highest(std::span<const float> logits, const Sampling& sampling, float highest, DrawBuffers& buffers) {
  std::vector<Candidate>& all = buffers.candidates;
  all.clear();
  each_from(logits, kth_highest(logits, size_t(sampling.top_k), buffers.weights), [&](size_t i) {
    const float logit = clean_logit(logits[i]);
    all.push_back({logit, int32_t(i), std::exp((double(logit) - double(highest)) / double(sampling.temperature))});
  });
  return sum_of(all);
}

/// Lists what top-p may keep, by the weights in the buffers. Returns what the whole row weighs.
double list_heaviest(std::span<const float> logits, double top_p, DrawBuffers& buffers) {
  const double total = sum_of_weights(buffers.weights);
  // All below this together weigh less than top-p leaves out; mostly all below 64 times that do.
  const double safe = 0.999 * (1 - top_p) * total / double(logits.size());
  float least = float(std::min(1.0, 64 * safe));  // the best weighs 1
  for (int i = 0; i < 2 && sum_of_weights(buffers.weights, least) < top_p * total; ++i) least /= 8;
  buffers.candidates.clear();
  each_from(buffers.weights, least, [&](size_t i) {
    buffers.candidates.push_back({clean_logit(logits[i]), int32_t(i), buffers.weights[i]});
  });
  return total;
}

int32_t draw_id(std::span<const float> logits, const Sampling& sampling, uint64_t index, DrawBuffers& buffers) {
  const float highest = highest_logit(logits);
  if (highest == lowest_logit) return 0;
  const auto best = int32_t(std::find_if(logits.begin(), logits.end(), [&](float logit) { return logit >= highest; }) - logits.begin());
  if (!(sampling.temperature > 0) || sampling.min_p > 1) return best;  // the most probable has weight 1

  const bool by_count = sampling.top_k > 0 && size_t(sampling.top_k) < logits.size(), by_rank = sampling.top_p < 1;
  const double top_p = double(sampling.top_p), share = uniform(sampling.seed, index);
  const float min_p = std::max(sampling.min_p, 0.0f);
  if (!by_count) {
    buffers.weights.resize(logits.size());
    weigh(logits, highest, std::min(1 / sampling.temperature, greatest_logit), buffers.weights.data());
    if (!by_rank) return draw_of_row(buffers.weights, min_p, share, buffers.sums, best);
  }
  const double total = by_count ? list_highest(logits, sampling, highest, buffers) : list_heaviest(logits, top_p, buffers);
  std::vector<Candidate>& all = buffers.candidates;
  if (by_rank) all.resize(reach(all, top_p * total, false));
  std::erase_if(all, [&](const Candidate& c) { return c.weight < double(min_p); });
  const double target = share * sum_of(all);
  if (by_rank) return all[reach(all, target, true) - 1].id;  // highest first, as the filter left them
  double running = 0;
  for (const Candidate& c : all) {
    running += c.weight;
    if (target < running) return c.id;
  }
  return best;  // only when rounding left the sum below the target
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
  if (id < 0 || size_t(id) >= logits.size()) return lowest_logit;
  const float highest = highest_logit(logits);
  if (highest == lowest_logit) return lowest_logit;
  double sum = 0;
  float weights[block];
  for (size_t i = 0; i < logits.size(); i += block) {
    const auto some = logits.subspan(i, std::min(block, logits.size() - i));
    weigh(some, highest, 1, weights);
    sum += sum_of_weights({weights, some.size()});
  }
  return double(clean_logit(logits[size_t(id)])) - double(highest) - std::log(sum);
}

Drawn draw(std::span<const float> logits, const Sampling& sampling, std::span<const int32_t> history, uint64_t index,
           DrawBuffers& buffers) {
  const auto row = sampling.penalised() ? penalised(logits, sampling.repetition_penalty, history, buffers) : logits;
  const int32_t id = draw_id(row, sampling, index, buffers);
  return {id, sampling.logprobs ? float(log_probability(logits, id)) : 0.0f};
}

Drawn draw(std::span<const float> logits, const Sampling& sampling, std::span<const int32_t> history, uint64_t index) {
  DrawBuffers buffers;
  return draw(logits, sampling, history, index, buffers);
}

}  // namespace chai
