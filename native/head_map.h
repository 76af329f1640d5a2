// The head map: which heads share scores, which keys and values are kept. In: a plan layer or a membership. Out: checked plain tables.
// Dense, grouped-query, CHAI, CHAI-static, Shared Attention and Decoupled-Head Attention are all values of LayerHeads.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "config.h"

namespace chai {

/// The resolved tables of one layer for one sequence. Read «x_of_y[i]» as «the x of y number i».
struct LayerHeads {
  int scores_from = 0;              // layer whose scores this layer uses (itself unless scores are shared across layers)
  std::vector<int> score_of_query;  // [H] query head -> score slot (of layer scores_from)
  std::vector<int> query_of_score;  // [k] score slot -> representative query head; empty when scores_from is another layer
  std::vector<int> key_of_score;    // [k] score slot -> K-cache slot
  std::vector<int> kept_keys;       // K-cache slot -> key head
  std::vector<int> value_of_query;  // [H] query head -> V-cache slot
  std::vector<int> kept_values;     // V-cache slot -> value head
  bool operator==(const LayerHeads&) const = default;
};

using HeadMap = std::vector<LayerHeads>;  // one entry a layer

/// No sharing: score slot = query head, K/V slot = key/value head.
LayerHeads identity_heads(const Config& config, int layer);

/// Proves the rules of one whole map against a config: sizes and ranges, every slot used, kept heads distinct, scores_from <= own
/// layer and itself computing, a sharing layer owns no score slots and no keys. Throws plan_invalid naming layer, field and value.
void check(const HeadMap& map, const Config& config);

/// Which cluster each query head belongs to and which head represents each cluster.
struct Membership {
  std::vector<int> cluster_of;       // [H]
  std::vector<int> representatives;  // [k]
  bool operator==(const Membership&) const = default;
};

/// Scores shared inside a cluster, only representatives' keys kept (K slots in order of first use), every value head kept.
LayerHeads clustered_heads(const Config& config, int layer, const Membership& membership);

/// The flat form of one layer's tables, the only one kernels see: `HeadTable::size(config)` int32 a layer, host and device alike.
/// Fields stand at fixed offsets (strides H and Hkv), unused tails are -1.
struct HeadTable {
  static constexpr int counts = 4;  // [0] scores, [1] kept keys, [2] kept values, [3] scores_from
  int heads, key_value_heads;
  explicit HeadTable(const Config& c) : heads(c.heads), key_value_heads(c.key_value_heads) {}
  int score_of_query() const { return counts; }
  int query_of_score() const { return counts + heads; }
  int key_of_score() const { return counts + 2 * heads; }
  int value_of_query() const { return counts + 3 * heads; }
  int kept_keys() const { return counts + 4 * heads; }
  int kept_values() const { return counts + 4 * heads + key_value_heads; }
  int size() const { return counts + 4 * heads + 2 * key_value_heads; }
};

void write_table(const LayerHeads& heads, const Config& config, int32_t* table);
LayerHeads read_table(const int32_t* table, const Config& config);

}  // namespace chai
