// Drawing on the device against native/sampler.h on the same logits: the same id wherever no rounding of float32 weights decides, the same
// log-probability.
#include "token_sampler.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "check.h"
#include "cuda_test.h"
#include "draw_case.h"
#include "sampler.h"

namespace chai::cuda {
namespace {

struct Outcome {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
};

TokenSampler sampler_of(int vocabulary, int draws) {
  Config config;
  config.vocabulary = vocabulary;
  return TokenSampler(config, draws, test_device());
}

/// All requests in one step; the rows of logits lie in reverse order.
Outcome draw_on_device(TokenSampler& sampler, const std::vector<Request>& requests) {
  const DeviceFacts device = test_device();
  Step step;
  std::vector<float> logits(requests.size() * requests[0].logits.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    const size_t row = requests.size() - 1 - i;
    std::copy(requests[i].logits.begin(), requests[i].logits.end(), logits.begin() + long(row * requests[i].logits.size()));
    step.draws.push_back({int(row), requests[i].sampling, requests[i].history, requests[i].index});
  }
  const Upload<float> device_logits(logits);
  StepLaunch launch;
  launch.logit_rows = int(requests.size()), launch.device = &device;
  sampler.begin(step, nullptr);
  sampler.sample(launch, device_logits.get());
  synchronize(nullptr);
  sampler.finish(step);
  return {step.drawn, step.logprobs};
}

Outcome draw_on_device(const std::vector<Request>& requests) {
  TokenSampler sampler = sampler_of(int(requests[0].logits.size()), int(requests.size()));
  return draw_on_device(sampler, requests);
}

/// Compares with the host's draws; returns how many were too near a tie to compare.
int compare(const std::vector<Request>& requests, const Outcome& outcome) {
  int ties = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const Request& r = requests[i];
    const Drawn expected = draw(r.logits, r.sampling, r.history, r.index);
    if (outcome.ids[i] != expected.id && plain_draw(r).margin < 1e-6) {
      ++ties;
      continue;
    }
    CHECK(outcome.ids[i] == expected.id);
    const bool same = outcome.logprobs[i] == expected.logprob;  // both may be -infinity
    CHECK(same || std::abs(double(outcome.logprobs[i]) - double(expected.logprob)) < 1e-6 * (1 + std::abs(double(expected.logprob))));
  }
  return ties;
}
int compare(const std::vector<Request>& requests) { return compare(requests, draw_on_device(requests)); }

}  // namespace

TEST(cuda_draws_equal_the_hosts) {
  std::mt19937 random(21);
  int drawn = 0, ties = 0;
  for (const int vocabulary : {3, 97, 500, 1000}) {
    for (unsigned batch = 0; batch < 24; ++batch) {
      set_schedule(batch % 6);
      std::vector<Request> requests;
      for (int i = 0; i < 20; ++i) requests.push_back(random_request(vocabulary, random));
      drawn += int(requests.size()), ties += compare(requests);
    }
  }
  CHECK(drawn > 1900 && ties < drawn / 100);
}

TEST(cuda_draws_from_large_vocabularies) {
  std::mt19937 random(22);
  for (const int vocabulary : {4096, 32000, 50257, 256000}) {
    std::vector<Request> requests;
    for (int i = 0; i < (vocabulary > 100000 ? 2 : 5); ++i) requests.push_back(random_request(vocabulary, random));
    CHECK(compare(requests) == 0);
  }
}

/// The list in shared memory holds 4096 ids: more of them, just as many, one more; and equal logits, which no bound can part.
TEST(cuda_draws_of_more_ids_than_a_list_holds) {
  std::mt19937 random(23);
  std::normal_distribution<float> narrow(0, 0.3f);
  std::vector<Request> requests;
  Request r;
  for (int i = 0; i < 20001; ++i) r.logits.push_back(narrow(random));
  r.sampling.temperature = 0.7f;
  for (const int k : {4095, 4096, 4097, 9000, 20000}) {
    for (const float p : {1.0f, 0.5f, 0.99f}) {
      r.sampling.top_k = k, r.sampling.top_p = p, r.sampling.seed = random();
      requests.push_back(r);
    }
  }
  r.sampling.top_k = 0;
  for (const float p : {0.01f, 0.6f, 0.999f}) {
    r.sampling.top_p = p, r.index = random();
    requests.push_back(r);
  }
  Request few = r;  // fewer possible than are asked for
  for (int i = 0; i < 20001; i += 2) few.logits[size_t(i)] = -infinite;
  for (const int k : {9999, 10000, 10001, 15000}) {
    for (const float p : {1.0f, 0.7f}) {
      few.sampling.top_k = k, few.sampling.top_p = p, few.index = random();
      requests.push_back(few);
    }
  }
  for (float& logit : r.logits) logit = logit > 0 ? 0.0f : -0.0f;
  for (const int k : {0, 1, 5000}) {
    r.sampling.top_k = k, r.sampling.top_p = 0.3f, r.index = random();
    requests.push_back(r);
  }
  for (int i = 0; i < 4096; ++i) r.logits[size_t(4 * i + 3)] = 1;
  for (const int k : {4096, 4097}) {
    r.sampling.top_k = k, r.index = random();
    requests.push_back(r);
  }
  for (int i = 4096; i < 4104; ++i) {  // what is written behind a full list falls upon its first ids, which this draws
    r.logits[size_t(4 * i + 3)] = 1;
    r.sampling.top_k = 0, r.sampling.top_p = 0.0001f;
    requests.push_back(r);
  }
  CHECK(compare(requests) == 0);
}

/// A row's blocks look at 2048 ids each: the best, ties, marks and the ids kept lie in several of them.
TEST(cuda_draws_across_slices) {
  std::mt19937 random(24);
  std::normal_distribution<float> wide(0, 3);
  std::vector<Request> requests;
  Request r;
  for (int i = 0; i < 9000; ++i) r.logits.push_back(wide(random));
  for (const int id : {100, 2047, 2048, 5000, 8999}) r.logits[size_t(id)] = 14;  // five that are best
  const auto ask = [&](auto set) {
    Request asked = r;
    asked.sampling.seed = random(), asked.sampling.logprobs = true;
    set(asked);
    requests.push_back(asked);
  };
  for (const std::vector<int32_t>& history : {std::vector<int32_t>{}, {100, 2048, 8999}, {100, 2047, 2048, 5000, 8999, 1, 4096}})
    for (const float temperature : {0.0f, 0.6f, 3.0f})
      for (const int k : {0, 3, 200})
        for (const float p : {1.0f, 0.9f})
          for (const float min_p : {0.0f, 0.01f})
            ask([&](Request& asked) {
              asked.history = history, asked.sampling.repetition_penalty = history.empty() ? 1 : 1.3f;
              asked.sampling.temperature = temperature, asked.sampling.top_k = k, asked.sampling.top_p = p, asked.sampling.min_p = min_p;
            });
  CHECK(compare(requests) == 0);
}

TEST(cuda_draws_across_more_slices_than_lanes) {
  std::mt19937 random(26);
  std::normal_distribution<float> narrow(0, 1);
  Request r;
  for (int i = 0; i < 150001; ++i) r.logits.push_back(narrow(random));
  r.sampling.temperature = 1, r.sampling.logprobs = true;
  std::vector<Request> requests;
  for (const float p : {1.0f, 0.02f})
    for (uint64_t i = 0; i < 8; ++i) r.index = i, r.sampling.top_p = p, requests.push_back(r);
  CHECK(compare(requests) == 0);
}

TEST(cuda_draws_one_step_after_the_other) {  // what is left of an earlier one counts for nothing
  std::mt19937 random(27);
  TokenSampler sampler = sampler_of(5000, 3);
  int ties = 0;
  for (int step = 0; step < 16; ++step) {
    std::vector<Request> requests;
    for (int i = 0; i < 1 + step % 3; ++i) requests.push_back(random_request(5000, random));
    ties += compare(requests, draw_on_device(sampler, requests));
  }
  CHECK(ties < 2);
}

TEST(cuda_draws_that_are_all_greedy) {  // with log-probabilities, and with none
  std::mt19937 random(25);
  std::vector<Request> requests;
  for (int i = 0; i < 4; ++i) {
    requests.push_back(random_request(5000, random));
    requests.back().sampling.temperature = 0, requests.back().sampling.logprobs = false;
  }
  CHECK(compare(requests) == 0);
  for (Request& r : requests) r.sampling.logprobs = true;
  CHECK(compare(requests) == 0);
}

TEST(cuda_draws_with_a_bound_at_zero) {  // of which there are two
  Request r;
  for (int i = 0; i < 1200; ++i) r.logits.push_back(std::vector<float>{-1, -0.2f, 0, 1}[size_t(i % 4)]);
  r.sampling.temperature = 5, r.sampling.top_k = 601;  // the range from -1 to 1 is parted at 0, and the 601st lies just below
  std::vector<Request> requests;
  for (uint64_t i = 0; i < 20; ++i) r.index = i, requests.push_back(r);
  CHECK(compare(requests) == 0);
}

TEST(cuda_draws_of_rows_without_a_possible_token) {
  Request none;
  none.logits.assign(100, NAN);
  none.sampling.temperature = 1, none.sampling.logprobs = true;
  Request one = none;
  one.logits[41] = -3e38f;
  Request punished = none;  // possible as the model gave them
  punished.logits.assign(100, -3e38f), punished.sampling.repetition_penalty = 1e30f;
  for (int i = 0; i < 100; ++i) punished.history.push_back(i);
  for (Request r : {none, one, punished})
    for (const float temperature : {0.0f, 1.0f}) {
      r.sampling.temperature = temperature;
      CHECK(compare({r}) == 0);
    }
}

TEST(cuda_draws_reach_every_part_of_the_distribution) {
  Request r;
  r.logits = {1, 0, 2, -1, 0, 1};
  for (const bool by_rank : {false, true}) {
    std::vector<Request> requests;
    for (uint64_t i = 0; i < 300; ++i) {
      r.sampling.temperature = 1, r.sampling.top_p = by_rank ? 0.9999f : 1, r.index = i;
      requests.push_back(r);
    }
    const Outcome outcome = draw_on_device(requests);
    std::vector<double> share(6, 0.0);
    for (const int32_t id : outcome.ids) share[size_t(id)] += 1.0 / double(requests.size());
    double total = 0;
    for (const float x : r.logits) total += std::exp(double(x));
    for (size_t i = 0; i < 6; ++i) {
      const double p = std::exp(double(r.logits[i])) / total;
      CHECK(std::abs(share[i] - p) < 5 * std::sqrt(p * (1 - p) / 300));
    }
  }
}

}  // namespace chai::cuda
