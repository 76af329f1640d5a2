// Random legal head maps for tests of attention. In: a config, a kind, a random generator. Out: a checked HeadMap.
#pragma once
#include <algorithm>
#include <numeric>
#include <random>
#include <vector>

#include "head_map.h"

namespace chai {

enum class HeadKind { dense, clustered, free, shared_layers };

/// `count` numbers below `range`, every one of them used (count >= range).
inline std::vector<int> random_onto(int count, int range, std::mt19937& random) {
  std::vector<int> out;
  for (int i = 0; i < count; ++i) out.push_back(i < range ? i : int(random() % unsigned(range)));
  std::shuffle(out.begin(), out.end(), random);
  return out;
}

inline std::vector<int> random_subset(int count, int range, std::mt19937& random) {
  std::vector<int> all(static_cast<size_t>(range));
  std::iota(all.begin(), all.end(), 0);
  std::shuffle(all.begin(), all.end(), random);
  all.resize(size_t(count));
  return all;
}

inline LayerHeads random_clusters(const Config& config, int layer, int clusters, std::mt19937& random) {
  Membership membership;
  membership.cluster_of = random_onto(config.heads, clusters, random);
  for (int cluster = 0; cluster < clusters; ++cluster) {
    std::vector<int> members;
    for (int head = 0; head < config.heads; ++head)
      if (membership.cluster_of[size_t(head)] == cluster) members.push_back(head);
    membership.representatives.push_back(members[random() % members.size()]);
  }
  return clustered_heads(config, layer, membership);
}

inline LayerHeads random_clusters(const Config& config, int layer, std::mt19937& random) {
  const int clusters = 1 + int(random() % unsigned(config.heads));
  return random_clusters(config, layer, clusters, random);
}

/// As many clusters in every layer.
inline HeadMap random_clusters_map(const Config& config, int clusters, std::mt19937& random) {
  HeadMap map;
  for (int layer = 0; layer < config.layers; ++layer) map.push_back(random_clusters(config, layer, clusters, random));
  return map;
}

/// Any numbers of score slots, keys and values.
inline LayerHeads random_free(const Config& config, int layer, std::mt19937& random) {
  LayerHeads heads;
  heads.scores_from = layer;
  const int scores = 1 + int(random() % unsigned(config.heads));
  const int keys = 1 + int(random() % unsigned(std::min(scores, config.key_value_heads)));
  const int values = 1 + int(random() % unsigned(config.key_value_heads));
  heads.score_of_query = random_onto(config.heads, scores, random);
  heads.query_of_score = random_subset(scores, config.heads, random);
  heads.key_of_score = random_onto(scores, keys, random);
  heads.kept_keys = random_subset(keys, config.key_value_heads, random);
  heads.value_of_query = random_onto(config.heads, values, random);
  heads.kept_values = random_subset(values, config.key_value_heads, random);
  return heads;
}

inline HeadMap random_heads(const Config& config, HeadKind kind, std::mt19937& random) {
  HeadMap map;
  for (int layer = 0; layer < config.layers; ++layer) {
    if (kind == HeadKind::dense)
      map.push_back(identity_heads(config, layer));
    else if (kind == HeadKind::clustered)
      map.push_back(random_clusters(config, layer, random));
    else
      map.push_back(random_free(config, layer, random));
    if (kind == HeadKind::shared_layers && layer > 0) {
      LayerHeads& heads = map.back();
      heads.scores_from = 0;
      heads.score_of_query = random_onto(config.heads, int(map[0].query_of_score.size()), random);
      heads.query_of_score.clear(), heads.key_of_score.clear(), heads.kept_keys.clear();
    }
  }
  check(map, config);
  return map;
}

}  // namespace chai
