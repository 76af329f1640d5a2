// What a model prescribes for the heads of all layers; see head_plan.h.
#include "head_plan.h"

#include <algorithm>
#include <string>

#include "error.h"

namespace chai {
namespace {

void check_rule(const ClusterRule& rule, int layer, const Config& c) {
  const auto fail = [layer](const std::string& what) {
    throw Error(Code::plan_invalid, "head plan, layer " + std::to_string(layer) + ": " + what);
  };
  if (rule.clusters < 1 || rule.clusters > c.heads)
    fail("clusters is " + std::to_string(rule.clusters) + ", allowed are 1 to " + std::to_string(c.heads));
  if (rule.head_groups < 1 || c.heads % rule.head_groups != 0 || rule.clusters % rule.head_groups != 0)
    fail("headGroups is " + std::to_string(rule.head_groups) + ", which must divide the " + std::to_string(c.heads) + " heads and the " +
         std::to_string(rule.clusters) + " clusters");
  if (rule.key_heads < 0 || rule.key_heads > c.key_value_heads)
    fail("keyHeads is " + std::to_string(rule.key_heads) + ", allowed are 1 to " + std::to_string(c.key_value_heads));
  if (rule.key_heads > 0 && rule.key_heads < rule.head_groups)
    fail("keyHeads is " + std::to_string(rule.key_heads) + ", but every one of the " + std::to_string(rule.head_groups) +
         " head groups needs one");
}

}  // namespace

int HeadPlan::key_slots(int layer, const Config& config) const {
  const PlanLayer& l = layers[size_t(layer)];
  if (method != Method::chai) return int(l.heads.kept_keys.size());
  const int slots = std::min(l.rule.clusters, config.key_value_heads);
  return l.rule.key_heads > 0 ? std::min(slots, l.rule.key_heads) : slots;
}

int HeadPlan::value_slots(int layer, const Config& config) const {
  return method == Method::chai ? config.key_value_heads : int(layers[size_t(layer)].heads.kept_values.size());
}

HeadMap HeadPlan::fixed_map() const {
  HeadMap map;
  for (const PlanLayer& layer : layers) map.push_back(layer.heads);
  return map;
}

HeadPlan dense_plan(const Config& config) {
  HeadPlan plan;
  for (int layer = 0; layer < config.layers; ++layer) plan.layers.push_back({{}, identity_heads(config, layer)});
  return plan;
}

void check(const HeadPlan& plan, const Config& config) {
  if (int(plan.layers.size()) != config.layers)
    throw Error(Code::plan_invalid,
                "head plan has " + std::to_string(plan.layers.size()) + " layers, the model " + std::to_string(config.layers));
  if (plan.method != Method::chai) return check(plan.fixed_map(), config);
  if (plan.warmup_tokens < 1 || plan.warmup_start < 0 || plan.warmup_tokens > max_warmup ||
      plan.warmup_start > max_warmup - plan.warmup_tokens)
    throw Error(Code::plan_invalid, "head plan: warmupStart " + std::to_string(plan.warmup_start) + " and warmupTokens " +
                                        std::to_string(plan.warmup_tokens) + " must be at least 0 and 1, and at most 256 together");
  for (int layer = 0; layer < config.layers; ++layer) check_rule(plan.layers[size_t(layer)].rule, layer, config);
}

}  // namespace chai
