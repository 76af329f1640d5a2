// Groups the query heads of one layer by how alike they attend (CHAI, ICML 2024, section 3). Pure functions, float64, deterministic.
// In: one feature vector a head (causal softmax rows of the warm-up tokens). Out: a Membership.
#pragma once
#include <span>

#include "head_map.h"

namespace chai {

enum class Clustering : uint8_t { kmeans, average_linkage_cosine };

struct ClusterRule {
  Clustering method = Clustering::kmeans;
  int clusters = 1;     // k, 1..H
  int head_groups = 1;  // clusters never cross one of these equal, contiguous groups
  int key_heads = 0;    // most distinct key heads the representatives may use; 0 = any
};

/// features: [heads x length], row-major. Farthest-first k-means from head 0, at most 20 Lloyd rounds, or average linkage on cosine
/// distances; ties go to the lowest index, no cluster is empty, clusters are numbered by lowest member, the representative is the
/// member nearest its cluster's centre.
Membership cluster_heads(std::span<const double> features, int heads, int key_value_heads, const ClusterRule& rule);

}  // namespace chai
