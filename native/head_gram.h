// How alike the heads of every layer attend, as inner products of their warm-up features. Every distance to a mean of heads follows from
// these (|x - c|^2 = xx - 2 mean xm + mean mean), so that clustering for any k needs no features. In: features. Out: Gram matrices,
// float64.
#pragma once
#include <span>
#include <vector>

namespace chai {

/// Where the numbers of a feature vector stand: row i, of token S + i, has S + i + 1 entries and follows row i - 1.
struct FeatureShape {
  int layers = 0, heads = 0;
  int start = 0;   // S
  int length = 0;  // entries of one head's feature vector
};

/// features: [layers][H][length]; what is not finite counts as 0, as in clustering. `rows`: ascending numbers of first feature rows, each
/// within the vector. Result: [rows][layers][H][H], symmetric; entry (a, b) sums over the first rows[i] rows.
std::vector<double> head_gram(std::vector<float> features, const FeatureShape& shape, std::span<const int> rows);

}  // namespace chai
