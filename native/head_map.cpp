// The head map: identity, clusters, proof, flat form; see head_map.h.
#include "head_map.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "error.h"

namespace chai {
namespace {

std::vector<int> counting(int count) {
  std::vector<int> list(count);
  std::iota(list.begin(), list.end(), 0);
  return list;
}

/// One layer under proof; every message names the layer and the field.
struct Proof {
  const LayerHeads& heads;
  int layer;

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(Code::plan_invalid, "head map, layer " + std::to_string(layer) + ": " + what);
  }
  void size(const char* field, const std::vector<int>& list, size_t expected) const {
    if (list.size() != expected)
      fail(std::string(field) + " has " + std::to_string(list.size()) + " entries, expected " + std::to_string(expected));
  }
  void size_between(const char* field, const std::vector<int>& list, size_t most) const {
    if (list.empty() || list.size() > most)
      fail(std::string(field) + " has " + std::to_string(list.size()) + " entries, allowed are 1 to " + std::to_string(most));
  }
  void range(const char* field, const std::vector<int>& list, size_t limit) const {
    for (size_t i = 0; i < list.size(); ++i)
      if (list[i] < 0 || size_t(list[i]) >= limit)
        fail(std::string(field) + "[" + std::to_string(i) + "] is " + std::to_string(list[i]) + ", allowed are 0 to " +
             std::to_string(limit - 1));
  }
  void all_used(const char* field, const std::vector<int>& list, const char* what, size_t count) const {
    std::vector<bool> used(count);
    for (const int entry : list) used[size_t(entry)] = true;
    const auto missing = std::find(used.begin(), used.end(), false);
    if (missing != used.end()) fail(std::string(what) + " " + std::to_string(missing - used.begin()) + " is used by no entry of " + field);
  }
  void distinct(const char* field, std::vector<int> list) const {
    std::sort(list.begin(), list.end());
    const auto twice = std::adjacent_find(list.begin(), list.end());
    if (twice != list.end()) fail(std::string(field) + " names head " + std::to_string(*twice) + " twice");
  }

  void values(const Config& c) const {
    size("valueOfQuery", heads.value_of_query, size_t(c.heads));
    size_between("keptValues", heads.kept_values, size_t(c.key_value_heads));
    range("keptValues", heads.kept_values, size_t(c.key_value_heads));
    distinct("keptValues", heads.kept_values);
    range("valueOfQuery", heads.value_of_query, heads.kept_values.size());
    all_used("valueOfQuery", heads.value_of_query, "V-cache slot", heads.kept_values.size());
  }
  void own_scores(const Config& c) const {
    size_between("queryOfScore", heads.query_of_score, size_t(c.heads));
    range("queryOfScore", heads.query_of_score, size_t(c.heads));
    size("keyOfScore", heads.key_of_score, heads.query_of_score.size());
    size_between("keptKeys", heads.kept_keys, size_t(c.key_value_heads));
    range("keptKeys", heads.kept_keys, size_t(c.key_value_heads));
    distinct("keptKeys", heads.kept_keys);
    range("keyOfScore", heads.key_of_score, heads.kept_keys.size());
    all_used("keyOfScore", heads.key_of_score, "K-cache slot", heads.kept_keys.size());
    range("scoreOfQuery", heads.score_of_query, heads.query_of_score.size());
    all_used("scoreOfQuery", heads.score_of_query, "score slot", heads.query_of_score.size());
  }
  void borrowed_scores(const HeadMap& map) const {
    const LayerHeads& source = map[size_t(heads.scores_from)];
    if (source.scores_from != heads.scores_from)
      fail("scoresFrom names layer " + std::to_string(heads.scores_from) + ", which takes its own scores from layer " +
           std::to_string(source.scores_from));
    size("queryOfScore", heads.query_of_score, 0);
    size("keyOfScore", heads.key_of_score, 0);
    size("keptKeys", heads.kept_keys, 0);
    range("scoreOfQuery", heads.score_of_query, source.query_of_score.size());
  }
};

}  // namespace

LayerHeads identity_heads(const Config& c, int layer) {
  Membership all;
  all.cluster_of = all.representatives = counting(c.heads);
  return clustered_heads(c, layer, all);
}

void check(const HeadMap& map, const Config& c) {
  if (int(map.size()) != c.layers)
    throw Error(Code::plan_invalid, "head map has " + std::to_string(map.size()) + " layers, the model " + std::to_string(c.layers));
  for (int layer = 0; layer < c.layers; ++layer) {
    const LayerHeads& heads = map[size_t(layer)];
    const Proof proof{heads, layer};
    if (heads.scores_from < 0 || heads.scores_from > layer)
      proof.fail("scoresFrom is " + std::to_string(heads.scores_from) + ", allowed are 0 to " + std::to_string(layer));
    proof.size("scoreOfQuery", heads.score_of_query, size_t(c.heads));
    proof.values(c);
    heads.scores_from == layer ? proof.own_scores(c) : proof.borrowed_scores(map);
  }
}

LayerHeads clustered_heads(const Config& c, int layer, const Membership& membership) {
  LayerHeads heads;
  heads.scores_from = layer;
  heads.score_of_query = membership.cluster_of;
  heads.query_of_score = membership.representatives;
  const int group = c.heads / c.key_value_heads;
  for (const int representative : membership.representatives) {
    const int key_head = representative / group;
    auto& kept = heads.kept_keys;
    const auto found = std::find(kept.begin(), kept.end(), key_head);
    heads.key_of_score.push_back(int(found - kept.begin()));
    if (found == kept.end()) kept.push_back(key_head);
  }
  for (int query = 0; query < c.heads; ++query) heads.value_of_query.push_back(query / group);
  heads.kept_values = counting(c.key_value_heads);
  return heads;
}

void write_table(const LayerHeads& heads, const Config& config, int32_t* table) {
  const HeadTable at(config);
  std::fill(table, table + at.size(), -1);
  table[0] = int32_t(heads.query_of_score.size());
  table[1] = int32_t(heads.kept_keys.size());
  table[2] = int32_t(heads.kept_values.size());
  table[3] = heads.scores_from;
  std::copy(heads.score_of_query.begin(), heads.score_of_query.end(), table + at.score_of_query());
  std::copy(heads.query_of_score.begin(), heads.query_of_score.end(), table + at.query_of_score());
  std::copy(heads.key_of_score.begin(), heads.key_of_score.end(), table + at.key_of_score());
  std::copy(heads.value_of_query.begin(), heads.value_of_query.end(), table + at.value_of_query());
  std::copy(heads.kept_keys.begin(), heads.kept_keys.end(), table + at.kept_keys());
  std::copy(heads.kept_values.begin(), heads.kept_values.end(), table + at.kept_values());
}

LayerHeads read_table(const int32_t* table, const Config& config) {
  const HeadTable at(config);
  const auto list = [table](int offset, int count) { return std::vector<int>(table + offset, table + offset + count); };
  LayerHeads heads;
  heads.scores_from = table[3];
  heads.score_of_query = list(at.score_of_query(), config.heads);
  heads.query_of_score = list(at.query_of_score(), table[0]);
  heads.key_of_score = list(at.key_of_score(), table[0]);
  heads.kept_keys = list(at.kept_keys(), table[1]);
  heads.value_of_query = list(at.value_of_query(), config.heads);
  heads.kept_values = list(at.kept_values(), table[2]);
  return heads;
}

}  // namespace chai
