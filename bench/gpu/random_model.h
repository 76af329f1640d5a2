// A model of random weights in the LLaMA-7B shape behind the engine, and what its sections share. In: options. Out: a loaded engine,
// sessions that are filled, timed and closed; the bytes and operations that a step needs at least.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "bench.h"
#include "engine.h"

namespace chai::cuda {
class CudaBackend;
}

namespace chai::bench {

/// 32 layers of 32 heads of 128, feed-forward 11008, vocabulary 32000; small where options.tiny.
Config model_shape(const Options& options);

/// Published counts for LLaMA-7B: 18 layers of 32 scores, 14 of 4.
HeadPlan published_plan(const Config& config);

struct NamedPlan {
  std::string name;
  HeadPlan plan;
};
/// Dense, then published.
std::vector<NamedPlan> model_plans(const Config& config);

/// Score slots of a layer under a plan.
int scores_of(const HeadPlan& plan, int layer, const Config& config);
/// Bytes of all weights, norms among them, each once.
double weight_bytes_of(const Config& config);
/// Bytes of K and V of one token.
double token_bytes(const HeadPlan& plan, const Config& config);
/// Weights that one step of one sequence reads; a single sequence leaves out the projections of heads whose scores are shared.
double weights_read(const HeadPlan& plan, const Config& config, bool alone);
/// Operations (multiply and add counted apart) of a prompt: products with the logits of the last row, and causal attention.
double prompt_flops(const HeadPlan& plan, const Config& config, int tokens);

class RandomModel {
 public:
  /// cache_tokens 0: as many as fit. Throws when the engine does not hold as many weights as the shape has.
  RandomModel(const Options& options, const cuda::DeviceFacts& device, double cache_tokens);
  ~RandomModel();
  Engine& engine() const { return *engine_; }
  const Config& config() const { return config_; }
  double cache_tokens() const { return cache_tokens_; }  // that the page pool holds at full head count
  /// Why steps are not replayed as graphs; empty while they are.
  const std::string& why_not_recorded() const;
  /// Who does large products: a library and its version, or why none does.
  const std::string& library() const;
  /// That the engine holds.
  double weight_bytes() const { return double(engine_->memory().weights); }

 private:
  void write_weights(LoadOptions& load);
  Config config_;
  std::string path_;  // the file of weights
  double cache_tokens_ = 0;
  const cuda::CudaBackend* backend_ = nullptr;  // the engine's
  std::shared_ptr<Engine> engine_;
};

std::vector<int32_t> random_ids(int count, int vocabulary, unsigned seed);

/// Seconds that the prompt took; `last` also fetches the last row's logits.
double evaluate_seconds(Session& session, std::vector<int32_t> ids, EvaluateResult result = EvaluateResult::last);

struct Drained {
  double us = 0;  // of one step of all sessions, while all of them ran
  std::vector<std::vector<int32_t>> tokens;
};
/// Generates `tokens` greedily in all sessions at once, taken as they come.
Drained drain(const std::vector<std::shared_ptr<Session>>& sessions, int vocabulary, int tokens);

void close_all(std::vector<std::shared_ptr<Session>>& sessions);

}  // namespace chai::bench
