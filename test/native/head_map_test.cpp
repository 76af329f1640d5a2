// Head maps and plans: identity, clusters, the flat form, and every rule of check() with a map that breaks just that rule.
#include "head_map.h"

#include <functional>

#include "check.h"
#include "error.h"
#include "head_plan.h"
#include "tiny_model.h"

namespace chai {
namespace {

HeadMap identity_map(const Config& config) {
  HeadMap map;
  for (int layer = 0; layer < config.layers; ++layer) map.push_back(identity_heads(config, layer));
  return map;
}

/// Layer 1 takes layer 0's scores; layer 0 has 2 clusters and one key head.
HeadMap sharing_map(const Config& config) {
  HeadMap map = identity_map(config);
  map[0] = {0, {0, 1, 0, 1, 0, 1, 0, 1}, {2, 5}, {0, 0}, {3}, {0, 0, 1, 1, 0, 0, 1, 1}, {2, 0}};
  map[1] = {0, {1, 1, 0, 0, 1, 1, 0, 0}, {}, {}, {}, {0, 0, 0, 0, 0, 0, 0, 0}, {1}};
  return map;
}

std::string refusal(const std::function<void()>& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.code == Code::plan_invalid || error.code == Code::model_invalid ? error.what() : "";
  }
  return "";
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST(identity_is_dense_and_grouped) {
  const Config config = tiny_config(2, 8, 4);
  const LayerHeads heads = identity_heads(config, 1);
  CHECK(heads.scores_from == 1);
  CHECK(heads.key_of_score == (std::vector<int>{0, 0, 1, 1, 2, 2, 3, 3}));
  CHECK(heads.value_of_query == heads.key_of_score);
  CHECK(heads.kept_keys == (std::vector<int>{0, 1, 2, 3}) && heads.kept_values == heads.kept_keys);
  check(identity_map(config), config);
}

TEST(clusters_keep_the_representatives_keys_in_order_of_first_use) {
  const Config config = tiny_config(1, 8, 4);
  const LayerHeads heads = clustered_heads(config, 0, {{0, 1, 2, 0, 1, 2, 2, 0}, {7, 1, 6}});
  CHECK(heads.kept_keys == (std::vector<int>{3, 0}));
  CHECK(heads.key_of_score == (std::vector<int>{0, 1, 0}));
  check({heads}, config);
}

TEST(the_flat_form_loses_nothing) {
  const Config config = tiny_config(3, 8, 4);
  const HeadTable table(config);
  for (const LayerHeads& heads : sharing_map(config)) {
    std::vector<int32_t> flat(size_t(table.size()), 99);
    write_table(heads, config, flat.data());
    LayerHeads expected = heads;
    CHECK(read_table(flat.data(), config) == expected);
  }
}

TEST(check_names_what_is_wrong) {
  const Config config = tiny_config(3, 8, 4);
  check(sharing_map(config), config);
  const auto broken = [&](const char* words, const std::function<void(HeadMap&)>& change) {
    HeadMap map = sharing_map(config);
    change(map);
    CHECK(has(refusal([&] { check(map, config); }), words));
  };
  broken("2 layers", [](HeadMap& m) { m.pop_back(); });
  broken("scoresFrom is 2", [](HeadMap& m) { m[1].scores_from = 2; });
  broken("takes its own scores from", [](HeadMap& m) { m[2] = m[1], m[2].scores_from = 1; });
  broken("scoreOfQuery has 7", [](HeadMap& m) { m[0].score_of_query.pop_back(); });
  broken("scoreOfQuery[3] is 2", [](HeadMap& m) { m[0].score_of_query[3] = 2; });
  broken("score slot 1", [](HeadMap& m) { m[0].score_of_query.assign(8, 0); });
  broken("queryOfScore[0] is 8", [](HeadMap& m) { m[0].query_of_score[0] = 8; });
  broken("keyOfScore has 1", [](HeadMap& m) { m[0].key_of_score.pop_back(); });
  broken("keyOfScore[1] is -1", [](HeadMap& m) { m[0].key_of_score[1] = -1; });
  broken("K-cache slot 1", [](HeadMap& m) { m[0].kept_keys = {3, 1}; });
  broken("keptKeys[0] is 4", [](HeadMap& m) { m[0].kept_keys[0] = 4; });
  broken("keptKeys names head 2 twice", [](HeadMap& m) { m[0].kept_keys = {2, 2}, m[0].key_of_score = {0, 1}; });
  broken("keptValues names head 2 twice", [](HeadMap& m) { m[0].kept_values = {2, 2}; });
  broken("V-cache slot 1", [](HeadMap& m) { m[0].value_of_query.assign(8, 0); });
  broken("keptValues has 0", [](HeadMap& m) { m[0].kept_values.clear(); });
  broken("queryOfScore has 1 entries, expected 0", [](HeadMap& m) { m[1].query_of_score = {0}; });
  broken("keptKeys has 1 entries, expected 0", [](HeadMap& m) { m[1].kept_keys = {0}; });
  broken("layer 1: scoreOfQuery[0] is 2", [](HeadMap& m) { m[1].score_of_query[0] = 2; });
}

TEST(plans_count_slots_before_membership) {
  const Config config = tiny_config(2, 8, 4);
  HeadPlan plan;
  plan.method = Method::chai;
  plan.layers.resize(2);
  plan.layers[0].rule.clusters = 6;
  plan.layers[1].rule = {Clustering::kmeans, 3, 1, 2};
  check(plan, config);
  CHECK(plan.key_slots(0, config) == 4 && plan.key_slots(1, config) == 2 && plan.value_slots(0, config) == 4);
  CHECK(plan.warmup_end() == 5 && plan.feature_length() == 15);
  plan.warmup_start = 2, plan.warmup_tokens = 3;
  CHECK(plan.feature_length() == 3 + 4 + 5);
  CHECK(dense_plan(config).warmup_end() == 0 && dense_plan(config).key_slots(1, config) == 4);
}

TEST(plans_out_of_range_are_refused) {
  const Config config = tiny_config(2, 8, 4);
  const auto broken = [&](const char* words, const std::function<void(HeadPlan&)>& change) {
    HeadPlan plan;
    plan.method = Method::chai;
    plan.layers.resize(2);
    change(plan);
    CHECK(has(refusal([&] { check(plan, config); }), words));
  };
  broken("3 layers", [](HeadPlan& p) { p.layers.resize(3); });
  broken("clusters is 0", [](HeadPlan& p) { p.layers[1].rule.clusters = 0; });
  broken("clusters is 9", [](HeadPlan& p) { p.layers[1].rule.clusters = 9; });
  broken("headGroups is 3", [](HeadPlan& p) { p.layers[0].rule.head_groups = 3; });
  broken("headGroups is 2", [](HeadPlan& p) { p.layers[0].rule.clusters = 3, p.layers[0].rule.head_groups = 2; });
  broken("keyHeads is 5", [](HeadPlan& p) { p.layers[0].rule.key_heads = 5; });
  broken("256", [](HeadPlan& p) { p.warmup_start = 252; });
  broken("256", [](HeadPlan& p) { p.warmup_start = 2147483647; });
  broken("256", [](HeadPlan& p) { p.warmup_tokens = 0; });
}

TEST(configs_out_of_range_are_refused) {
  const auto broken = [&](const char* words, const std::function<void(Config&)>& change) {
    Config config = tiny_config();
    change(config);
    CHECK(has(refusal([&] { check(config); }), words));
  };
  check(tiny_config());
  broken("layers is 0", [](Config& c) { c.layers = 0; });
  broken("key/value heads is 3", [](Config& c) { c.key_value_heads = 3; });
  broken("hidden size is -1", [](Config& c) { c.hidden = -1; });
  broken("norm epsilon", [](Config& c) { c.norm_epsilon = NAN; });
  broken("attention scale", [](Config& c) { c.attention_scale = 0; });
  broken("rotary frequencies", [](Config& c) { c.rotary_frequencies.pop_back(); });
  broken("rotary frequency", [](Config& c) { c.rotary_frequencies[0] = INFINITY; });
  broken("sliding window", [](Config& c) { c.sliding_window = -1; });
}

}  // namespace chai
