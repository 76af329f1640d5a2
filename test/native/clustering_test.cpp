// Clustering: cases worked out by hand, rules that must hold for any features, and the constraints on groups and key heads.
#include "clustering.h"

#include <cmath>
#include <random>
#include <set>

#include "check.h"

namespace chai {
namespace {

Membership cluster(const std::vector<double>& features, int heads, ClusterRule rule, int key_value_heads = 0) {
  return cluster_heads(features, heads, key_value_heads ? key_value_heads : heads, rule);
}

}  // namespace

TEST(kmeans_by_hand) {
  // On a line: 0, 1, 10, 11, 30. Farthest first from head 0: 30, then 11. Centres 0.5, 10.5, 30.
  const Membership found = cluster({0, 1, 10, 11, 30}, 5, {Clustering::kmeans, 3});
  CHECK(found.cluster_of == (std::vector<int>{0, 0, 1, 1, 2}));
  CHECK(found.representatives == (std::vector<int>{0, 2, 4}));  // a pair is equally far from its centre: its lower head
  const Membership one = cluster({0, 1, 10, 11, 30}, 5, {Clustering::kmeans, 1});
  CHECK(one.cluster_of == std::vector<int>(5, 0) && one.representatives == std::vector<int>{2});  // mean 10.4
}

TEST(average_linkage_by_hand) {
  // Directions at 0, 10, 90, 100 and 45 degrees: the two near pairs merge first; then 45 joins the pair that is nearer on average.
  std::vector<double> features;
  for (const double degrees : {0.0, 10.0, 90.0, 100.0, 45.0}) {
    features.push_back(3 * std::cos(degrees * M_PI / 180));
    features.push_back(3 * std::sin(degrees * M_PI / 180));
  }
  const Membership three = cluster(features, 5, {Clustering::average_linkage_cosine, 3});
  CHECK(three.cluster_of == (std::vector<int>{0, 0, 1, 1, 2}));
  const Membership two = cluster(features, 5, {Clustering::average_linkage_cosine, 2});
  CHECK(two.cluster_of == (std::vector<int>{0, 0, 1, 1, 0}));
}

TEST(any_features_give_a_partition_with_members_as_representatives) {
  std::mt19937 random(4);
  for (int round = 0; round < 400; ++round) {
    const int heads = 1 + int(random() % 16), length = 1 + int(random() % 20), k = 1 + int(random() % heads);
    std::vector<double> features(size_t(heads) * length);
    for (double& f : features) f = round % 3 == 0 ? double(random() % 2) : double(random()) / 4e9;  // many ties, or none
    if (round % 7 == 0) features[random() % features.size()] = round % 2 ? NAN : INFINITY;
    for (const auto method : {Clustering::kmeans, Clustering::average_linkage_cosine}) {
      const Membership found = cluster(features, heads, {method, k});
      CHECK(int(found.cluster_of.size()) == heads && int(found.representatives.size()) == k);
      int highest = -1;
      for (const int c : found.cluster_of) {
        CHECK(c >= 0 && c <= highest + 1);  // numbered by lowest member
        highest = std::max(highest, c);
      }
      CHECK(highest == k - 1);
      for (int c = 0; c < k; ++c) CHECK(found.cluster_of[size_t(found.representatives[size_t(c)])] == c);
      CHECK(found == cluster(features, heads, {method, k}));
    }
  }
}

TEST(groups_are_never_crossed) {
  std::mt19937 random(5);
  std::vector<double> features(16 * 6);
  for (double& f : features) f = double(random()) / 4e9;
  const Membership found = cluster(features, 16, {Clustering::kmeans, 8, 4});
  for (int c = 0; c < 8; ++c) {
    std::set<int> groups;
    for (int h = 0; h < 16; ++h)
      if (found.cluster_of[size_t(h)] == c) groups.insert(h / 4);
    CHECK(groups.size() == 1 && found.representatives[size_t(c)] / 4 == *groups.begin());
  }
}

TEST(features_whose_squares_leave_the_range_of_double_still_cluster) {
  for (const double size : {1e-300, 1e-170, 1e160, 1e308})
    for (const auto method : {Clustering::kmeans, Clustering::average_linkage_cosine})
      for (int clusters = 1; clusters <= 4; ++clusters) {
        const std::vector<double> features = {size, 0, 0, size, -size, size, size, size};
        const Membership found = cluster(features, 4, {method, clusters});
        CHECK(found.representatives.size() == size_t(clusters));
        for (const int c : found.cluster_of) CHECK(c >= 0 && c < clusters);
        for (int c = 0; c < clusters; ++c) CHECK(found.cluster_of.at(size_t(found.representatives[size_t(c)])) == c);
      }
}

TEST(key_heads_bound_what_representatives_use) {
  std::mt19937 random(6);
  for (int round = 0; round < 100; ++round) {
    std::vector<double> features(16 * 5);
    for (double& f : features) f = double(random()) / 4e9;
    for (int limit = 1; limit <= 8; ++limit) {
      ClusterRule rule{Clustering::kmeans, 7, 1, limit};
      const Membership found = cluster(features, 16, rule, 8), free = cluster(features, 16, {Clustering::kmeans, 7}, 8);
      std::set<int> keys, free_keys;
      for (const int r : found.representatives) keys.insert(r / 2);
      for (const int r : free.representatives) free_keys.insert(r / 2);
      CHECK(int(keys.size()) <= limit);
      CHECK(found.cluster_of == free.cluster_of);
      if (int(free_keys.size()) <= limit) CHECK(found == free);
    }
  }
}

}  // namespace chai
