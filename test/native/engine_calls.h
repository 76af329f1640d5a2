// What tests of the engine share: prompts, plans, and calls that wait. In: sessions. Out: logits, tokens, error codes.
#pragma once
#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <future>
#include <mutex>
#include <random>

#include "engine.h"
#include "error.h"

namespace chai {

inline std::vector<int32_t> some_ids(int count, unsigned seed, int vocabulary = 97) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(size_t(count), 0);
  for (auto& id : ids) id = int32_t(random() % unsigned(vocabulary));
  return ids;
}

inline HeadPlan chai_plan(const Config& config, std::vector<int> clusters, int start = 0, int tokens = 5) {
  HeadPlan plan;
  plan.method = Method::chai, plan.warmup_start = start, plan.warmup_tokens = tokens;
  for (int i = 0; i < config.layers; ++i) {
    PlanLayer layer;
    layer.rule.clusters = clusters[size_t(i)];
    plan.layers.push_back(layer);
  }
  return plan;
}

inline EvaluateOutcome wait_for(Session& session, std::vector<int32_t> ids, EvaluateResult result) {
  std::promise<EvaluateOutcome> promise;
  auto future = promise.get_future();
  const auto job = session.evaluate(std::move(ids), result, [&](EvaluateOutcome outcome) { promise.set_value(std::move(outcome)); });
  return future.get();
}

inline std::vector<float> logits_of(Session& session, std::vector<int32_t> ids) {
  auto outcome = wait_for(session, std::move(ids), EvaluateResult::all);
  if (outcome.error) std::rethrow_exception(outcome.error);
  return outcome.values;
}

/// Relative L2 distance; infinite when sizes differ or anything is not a number.
inline double distance(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size() || a.empty()) return INFINITY;
  double difference = 0, whole = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (double(a[i]) - b[i]) * (double(a[i]) - b[i]);
    whole += double(b[i]) * b[i];
  }
  return std::isfinite(difference) ? std::sqrt(difference / whole) : INFINITY;
}

/// Pulls a whole generation, as the addon does.
struct Puller {
  std::mutex mutex;
  std::condition_variable changed;
  bool ready = false;
  std::shared_ptr<Generation> generation;

  void start(Session& session, std::vector<int32_t> ids, GenerateOptions options) {
    generation = session.generate(std::move(ids), std::move(options), [this] {
      const std::lock_guard hold(mutex);
      ready = true;
      changed.notify_all();
    });
  }
  TokenBatch next() {
    for (;;) {
      TokenBatch batch = generation->take();
      if (!batch.ids.empty() || batch.finish != Finish::none || batch.error) return batch;
      std::unique_lock hold(mutex);
      changed.wait(hold, [this] { return ready; });
      ready = false;
    }
  }
  std::vector<int32_t> all() {
    std::vector<int32_t> ids;
    for (;;) {
      const TokenBatch batch = next();
      ids.insert(ids.end(), batch.ids.begin(), batch.ids.end());
      if (batch.error) std::rethrow_exception(batch.error);
      if (batch.finish != Finish::none) return ids;
    }
  }
  void stop(int delivered) {
    std::promise<void> promise;
    generation->stop(delivered, [&] { promise.set_value(); });
    promise.get_future().wait();
  }
};

inline GenerateOptions greedy(int count) {
  GenerateOptions options;
  options.max_tokens = count;
  return options;
}

inline std::vector<int32_t> generated(Session& session, std::vector<int32_t> ids, GenerateOptions options) {
  Puller puller;
  puller.start(session, std::move(ids), std::move(options));
  return puller.all();
}

/// Whether steps ran ahead as far as they must. A fourth in flight waits for the reader: the queue holds four tokens with those to come.
inline bool ran_ahead(int most, int depth) { return most <= depth && most >= std::min(depth, 3); }

template <class Call>
Code code_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code;
  }
  return Code::device_fault;  // none of the tests below expects this one
}

}  // namespace chai
