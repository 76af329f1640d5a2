// The sampler: distributions, filters in order, penalties, determinism, hostile logits.
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "check.h"
#include "draw_case.h"

using namespace chai;

namespace {

const float nan_value = std::numeric_limits<float>::quiet_NaN();

std::vector<double> frequencies(const std::vector<float>& logits, Sampling sampling, int draws = 40000) {
  std::vector<double> counts(logits.size());
  for (int i = 0; i < draws; ++i) counts[size_t(draw(logits, sampling, {}, uint64_t(i)).id)] += 1.0 / draws;
  return counts;
}

std::set<int> support(const std::vector<float>& logits, const Sampling& sampling) {
  std::set<int> ids;
  for (int i = 0; i < 3000; ++i) ids.insert(draw(logits, sampling, {}, uint64_t(i)).id);
  return ids;
}

Sampling warm(float temperature = 1) {
  Sampling sampling;
  sampling.temperature = temperature;
  sampling.seed = 5;
  return sampling;
}

}  // namespace

TEST(sampler_greedy_takes_the_highest_and_the_lowest_id_of_equals) {
  CHECK(draw(std::vector<float>{1, 3, 2}, {}, {}, 0).id == 1);
  CHECK(draw(std::vector<float>{1, 3, 3}, {}, {}, 9).id == 1);
  CHECK(draw(std::vector<float>{-5}, {}, {}, 9).id == 0);
}

TEST(sampler_frequencies_follow_the_tempered_softmax) {
  const std::vector<float> logits{0.5f, -1, 2, 0, 1.5f};
  for (const float temperature : {0.5f, 1.0f, 2.0f}) {
    double total = 0;
    for (const float logit : logits) total += std::exp(double(logit) / temperature);
    const auto seen = frequencies(logits, warm(temperature));
    for (size_t i = 0; i < logits.size(); ++i) {
      const double p = std::exp(double(logits[i]) / temperature) / total;
      CHECK(std::abs(seen[i] - p) < 5 * std::sqrt(p * (1 - p) / 40000) + 1e-4);
    }
  }
}

TEST(sampler_top_k_keeps_the_k_highest_and_ties_of_the_last) {
  Sampling sampling = warm();
  sampling.top_k = 2;
  CHECK((support({1, 4, 2, 3.5f, 0}, sampling) == std::set<int>{1, 3}));
  CHECK((support({1, 4, 3, 3, 0}, sampling) == std::set<int>{1, 2, 3}));
  sampling.top_k = 100;
  CHECK(support({1, 1, 1}, sampling).size() == 3);
}

TEST(sampler_top_p_keeps_the_fewest_that_reach_p) {
  const std::vector<float> logits{std::log(0.15f), std::log(0.5f), std::log(0.05f), std::log(0.3f)};
  Sampling sampling = warm();
  sampling.top_p = 0.7f;
  CHECK((support(logits, sampling) == std::set<int>{1, 3}));
  sampling.top_p = 0.9f;
  CHECK((support(logits, sampling) == std::set<int>{0, 1, 3}));
  sampling.top_p = 0;
  CHECK((support(logits, sampling) == std::set<int>{1}));
  sampling.top_p = 0.7f;
  sampling.top_k = 1;  // first top-k, then top-p of what is left
  CHECK((support(logits, sampling) == std::set<int>{1}));
  Sampling half = warm();
  half.top_p = 0.5f;
  CHECK((support({1, 1, 1, 1}, half) == std::set<int>{0, 1}));  // two of four are just as much
  const auto seen = frequencies(logits, [] {
    Sampling s = warm();
    s.top_p = 0.7f;
    return s;
  }());
  CHECK(std::abs(seen[1] - 0.625) < 0.015);
}

TEST(sampler_min_p_is_a_share_of_the_highest_probability) {
  const std::vector<float> logits{std::log(0.15f), std::log(0.5f), std::log(0.05f), std::log(0.3f)};
  Sampling sampling = warm();
  sampling.min_p = 0.2f;
  CHECK((support(logits, sampling) == std::set<int>{0, 1, 3}));
  sampling.min_p = 0.5f;
  CHECK((support(logits, sampling) == std::set<int>{1, 3}));
  sampling.min_p = 1;
  CHECK((support(logits, sampling) == std::set<int>{1}));
}

TEST(sampler_repetition_penalty_divides_positive_and_multiplies_negative_logits_once) {
  Sampling sampling;
  sampling.repetition_penalty = 2;
  const std::vector<int32_t> history{0, 0, 0, -7, 1000};
  CHECK(draw(std::vector<float>{3, 1.4f}, sampling, history, 0).id == 0);  // 3 / 2 > 1.4, applied once
  CHECK(draw(std::vector<float>{3, 1.6f}, sampling, history, 0).id == 1);
  CHECK(draw(std::vector<float>{-1, -1.9f}, sampling, history, 0).id == 1);
}

TEST(sampler_depends_on_seed_and_index_alone) {
  const std::vector<float> logits(50, 1.0f);
  std::map<int, int> ids;
  Sampling sampling = warm();
  for (int i = 0; i < 200; ++i) {
    const int id = draw(logits, sampling, {}, uint64_t(i)).id;
    CHECK(id == draw(logits, sampling, {}, uint64_t(i)).id);
    ++ids[id];
  }
  CHECK(ids.size() > 40);
  int other = 0;
  for (int i = 0; i < 200; ++i) {
    Sampling another = sampling;
    another.seed = 6;
    other += draw(logits, sampling, {}, uint64_t(i)).id != draw(logits, another, {}, uint64_t(i)).id;
  }
  CHECK(other > 150);
}

TEST(sampler_log_probability_is_of_the_plain_softmax) {
  const std::vector<float> logits{1, 2, 3};
  const double total = std::exp(1.0) + std::exp(2.0) + std::exp(3.0);
  CHECK(std::abs(log_probability(logits, 1) - (2 - std::log(total))) < 1e-7);
  Sampling sampling = warm(0.1f);
  sampling.top_k = 1;
  sampling.logprobs = true;
  CHECK(std::abs(draw(logits, sampling, {}, 3).logprob - (3 - std::log(total))) < 1e-6);
  CHECK(log_probability(logits, -1) == -infinite && log_probability(logits, 3) == -infinite);
}

TEST(sampler_survives_hostile_logits) {
  for (const float temperature : {0.0f, 1.0f, 1e-30f, 1e30f}) {
    Sampling sampling = warm(temperature);
    sampling.top_p = 0.9f, sampling.top_k = 3, sampling.min_p = 0.1f, sampling.repetition_penalty = 1.3f, sampling.logprobs = true;
    const std::vector<int32_t> history{0, 1};
    for (uint64_t i = 0; i < 20; ++i) {
      CHECK(draw(std::vector<float>{nan_value, nan_value}, sampling, history, i).id == 0);
      CHECK(draw(std::vector<float>{-infinite, -infinite}, sampling, history, i).id == 0);
      CHECK(draw(std::vector<float>{nan_value, 1, nan_value, -infinite}, sampling, history, i).id == 1);
      CHECK(draw(std::vector<float>{1, infinite, -infinite, nan_value}, sampling, {}, i).id == 1);
      const auto drawn = draw(std::vector<float>{3e38f, -3e38f, 3e38f}, sampling, {}, i);
      CHECK((drawn.id == 0 || drawn.id == 2) && std::isfinite(drawn.logprob));
    }
  }
}

TEST(sampler_draws_what_plain_double_precision_draws) {
  std::mt19937 random(31);
  DrawBuffers buffers;  // the same for all, as the engine's
  int drawn = 0, ties = 0;
  const auto compare = [&](const Request& r) {
    const PlainDraw expected = plain_draw(r);
    const auto [id, logprob] = draw(r.logits, r.sampling, r.history, r.index, buffers);
    ++drawn;
    if (id != expected.id && expected.margin < 1e-6)
      ++ties;
    else
      CHECK(id == expected.id);
    const double plain = r.sampling.logprobs ? plain_log_probability(r.logits, id) : 0;
    CHECK(logprob == float(plain) || std::abs(double(logprob) - plain) < 2e-7 * (1 + std::abs(plain)));
  };
  for (const int vocabulary : {1, 3, 16, 97, 500, 1000, 3000})
    for (int i = 0; i < 400; ++i) compare(random_request(vocabulary, random));
  for (const int vocabulary : {32000, 50257})
    for (int i = 0; i < 40; ++i) compare(random_request(vocabulary, random));
  CHECK(drawn > 2800 && ties < drawn / 100);
}

TEST(sampler_log_probabilities_of_many) {
  std::mt19937 random(32);
  std::normal_distribution<float> spread(0, 4);
  for (const int vocabulary : {7, 511, 512, 513, 40000}) {
    std::vector<float> logits;
    for (int i = 0; i < vocabulary; ++i) logits.push_back(i % 50 == 3 ? nan_value : spread(random));
    for (const int id : {0, vocabulary / 2, vocabulary - 1}) {
      const double expected = plain_log_probability(logits, id), got = log_probability(logits, id);
      CHECK(got == expected || std::abs(got - expected) < 1e-7);
    }
  }
}
