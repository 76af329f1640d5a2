// What a model prescribes for the heads of all layers of a session. In: numbers from lib/head_plan.ts. Out: a checked HeadPlan and the
// counts that follow from it (the host knows these counts before any membership is known).
#pragma once
#include <optional>
#include <vector>

#include "clustering.h"
#include "head_map.h"

namespace chai {

constexpr int max_warmup = 256;  // S + W at most

enum class Method : uint8_t { dense, chai, chai_static, explicit_map };

struct PlanLayer {
  ClusterRule rule;  // method chai
  LayerHeads heads;  // every other method: the resolved tables
};

struct HeadPlan {
  Method method = Method::dense;
  int warmup_start = 0;   // S
  int warmup_tokens = 5;  // W
  std::vector<PlanLayer> layers;

  /// Tokens that attend with all heads before membership is found; 0 unless the method is chai.
  int warmup_end() const { return method == Method::chai ? warmup_start + warmup_tokens : 0; }
  /// Length of one head's feature vector: causal rows of tokens S .. S+W-1, row i has i + 1 entries.
  int feature_length() const { return warmup_tokens * (2 * warmup_start + warmup_tokens + 1) / 2; }
  /// K-cache slots reserved in a layer once membership is known, and V-cache slots.
  int key_slots(int layer, const Config& config) const;
  int value_slots(int layer, const Config& config) const;
  /// Layer whose scores this layer uses.
  int scores_from(int layer) const { return method == Method::chai ? layer : layers[layer].heads.scores_from; }
  /// The whole map when it is fixed by the plan (every method but chai).
  HeadMap fixed_map() const;
};

HeadPlan dense_plan(const Config& config);
/// Throws plan_invalid.
void check(const HeadPlan& plan, const Config& config);

}  // namespace chai
