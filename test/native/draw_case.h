// Draws to compare: random rows and settings, and the sampler's rules once more in plain double precision. In: a request. Out: the id, and
// how near a tie it was decided.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "sampler.h"

namespace chai {
namespace {

constexpr float infinite = std::numeric_limits<float>::infinity();

/// One row and how it is drawn from.
struct Request {
  std::vector<float> logits;
  Sampling sampling;
  std::vector<int32_t> history;
  uint64_t index = 0;
};

/// NaN counts as impossible, overflow as the greatest number.
inline float plain_logit(float x) { return std::isnan(x) ? -infinite : std::min(x, std::numeric_limits<float>::max()); }

inline double plain_log_probability(const std::vector<float>& logits, int id) {
  double highest = -infinite, total = 0;
  for (const float x : logits) highest = std::max(highest, double(plain_logit(x)));
  for (const float x : logits) total += std::exp(double(plain_logit(x)) - highest);
  return highest == -infinite ? highest : double(plain_logit(logits[size_t(id)])) - highest - std::log(total);
}

struct PlainDraw {
  int32_t id = 0;
  double margin = 1;  // relative distance of the decision nearest to a tie
};

inline PlainDraw plain_draw(const Request& r) {
  const Sampling& s = r.sampling;
  std::vector<std::pair<double, int>> all;  // (-logit, id): sorted as ranks
  for (size_t i = 0; i < r.logits.size(); ++i) {
    float x = plain_logit(r.logits[i]);
    const bool seen = std::find(r.history.begin(), r.history.end(), int32_t(i)) != r.history.end();
    if (seen && s.repetition_penalty > 0) x = plain_logit(x < 0 ? x * s.repetition_penalty : x / s.repetition_penalty);
    if (x > -infinite) all.emplace_back(-double(x), int(i));
  }
  if (all.empty()) return {};
  std::sort(all.begin(), all.end());
  const auto [best, best_id] = all[0];
  if (!(s.temperature > 0)) return {best_id, 1};
  const auto weight = [&, highest = best](const std::pair<double, int>& one) {
    return std::exp((highest - one.first) / double(s.temperature));
  };
  if (s.top_k > 0 && size_t(s.top_k) < all.size()) {
    size_t keep = size_t(s.top_k);
    while (keep < all.size() && all[keep].first == all[size_t(s.top_k) - 1].first) ++keep;
    all.resize(keep);
  }
  double margin = 1, total = 0, sum = 0;
  for (const auto& one : all) total += weight(one);
  if (s.top_p < 1) {
    size_t keep = 0;
    while (keep < all.size() && (keep == 0 || sum < s.top_p * total)) {
      sum += weight(all[keep++]);
      margin = std::min(margin, std::abs(sum - double(s.top_p) * total) / total);
    }
    all.resize(keep);
  }
  std::vector<std::pair<double, int>> kept;
  for (size_t i = 0; i < all.size(); ++i) {
    if (s.min_p > 0) margin = std::min(margin, std::abs(weight(all[i]) - double(s.min_p)) / double(s.min_p));
    if (i == 0 || !(s.min_p > 0 && weight(all[i]) < double(s.min_p))) kept.push_back(all[i]);
  }
  if (!(s.top_p < 1)) std::sort(kept.begin(), kept.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  total = sum = 0;
  for (const auto& one : kept) total += weight(one);
  const double target = uniform(s.seed, r.index) * total;
  PlainDraw drawn{best_id, margin};
  bool found = false;
  for (const auto& one : kept) {
    sum += weight(one);
    drawn.margin = std::min(drawn.margin, std::abs(sum - target) / total);
    if (!found && target < sum) found = true, drawn.id = one.second;
  }
  return drawn;
}

inline Request random_request(int vocabulary, std::mt19937& random) {
  const auto chance = [&](unsigned of) { return random() % of == 0; };
  Request r;
  std::normal_distribution<float> normal(0, chance(3) ? 0.5f : 4.0f);
  const unsigned kind = random() % 6;
  for (int i = 0; i < vocabulary; ++i) {
    float x = normal(random);
    if (kind == 0) x = std::round(x);  // many equal logits
    if (kind == 1 && chance(8)) x = chance(2) ? NAN : -infinite;
    if (kind == 2 && chance(50)) x = chance(2) ? infinite : -3e38f;
    if (kind == 3) x = x > 0 ? 0.0f : -0.0f;
    r.logits.push_back(x);
  }
  Sampling& s = r.sampling;
  s.seed = (uint64_t(random()) << 32) + random();
  r.index = random() % 5000;
  s.logprobs = chance(2);
  s.temperature = chance(8) ? 0.0f : chance(6) ? 1.0f : 0.05f + float(random() % 300) / 100;
  if (chance(2)) s.top_k = 1 + int(random() % unsigned(chance(3) ? vocabulary + 5 : 50));
  if (chance(2)) s.top_p = chance(8) ? 0.0f : float(random() % 1000) / 1000;
  if (chance(3)) s.min_p = chance(10) ? 1.5f : float(random() % 300) / 1000;
  if (chance(2)) {
    s.repetition_penalty = chance(5) ? 1e30f : 0.5f + float(random() % 200) / 100;
    for (unsigned i = random() % 40; i > 0; --i) r.history.push_back(int32_t(random() % unsigned(vocabulary + 2)) - 1);
  }
  return r;
}

}  // namespace
}  // namespace chai
