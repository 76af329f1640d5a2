// Groups the query heads of one layer by how alike they attend; see clustering.h. Every choice is deterministic: ties go to the lowest
// index.
#include "clustering.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace chai {
namespace {

constexpr int lloyd_rounds = 20;

/// Feature vectors of some heads, and the arithmetic on them in float64.
struct Points {
  std::vector<double> data;  // [count x length]; what is not finite counts as 0
  int count, length;

  Points(std::span<const double> features, int first, int count, int length)
      : data(features.begin() + size_t(first) * length, features.begin() + size_t(first + count) * length), count(count), length(length) {
    for (double& value : data)
      if (!std::isfinite(value)) value = 0;
  }
  const double* operator[](int i) const { return data.data() + size_t(i) * length; }
  double squared_distance(const double* a, const double* b) const {
    double sum = 0;
    for (int i = 0; i < length; ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
  }
  /// [clusters x length] means of the members.
  std::vector<double> centres(const std::vector<int>& cluster_of, int clusters) const {
    std::vector<double> centre(size_t(clusters) * length, 0.0);
    std::vector<int> members(clusters, 0);
    for (int p = 0; p < count; ++p) {
      ++members[cluster_of[p]];
      for (int i = 0; i < length; ++i) centre[size_t(cluster_of[p]) * length + i] += (*this)[p][i];
    }
    for (int c = 0; c < clusters; ++c)
      for (int i = 0; i < length; ++i) centre[size_t(c) * length + i] /= std::max(1, members[c]);
    return centre;
  }
};

/// Farthest-first: head 0, then again and again the head farthest from its nearest chosen one.
std::vector<double> first_centres(const Points& points, int clusters) {
  std::vector<double> centre, nearest(points.count, std::numeric_limits<double>::infinity());
  int next = 0;
  for (int c = 0; c < clusters; ++c) {
    centre.insert(centre.end(), points[next], points[next] + points.length);
    for (int p = 0; p < points.count; ++p) nearest[p] = std::min(nearest[p], points.squared_distance(points[p], points[next]));
    next = int(std::max_element(nearest.begin(), nearest.end()) - nearest.begin());
  }
  return centre;
}

/// An empty cluster takes the head farthest from its own centre, never the only member of another cluster.
void fill_empty(std::vector<int>& cluster_of, std::vector<double>& distance, int clusters) {
  std::vector<int> members(clusters, 0);
  for (const int c : cluster_of) ++members[c];
  for (int c = 0; c < clusters; ++c) {
    if (members[c] > 0) continue;
    int farthest = -1;
    for (int p = 0; p < int(cluster_of.size()); ++p)
      if (members[cluster_of[p]] > 1 && (farthest < 0 || distance[p] > distance[farthest])) farthest = p;
    --members[cluster_of[farthest]];
    cluster_of[farthest] = c;
    distance[farthest] = 0;
    ++members[c];
  }
}

std::vector<int> kmeans(const Points& points, int clusters) {
  std::vector<double> centre = first_centres(points, clusters), distance(points.count);
  std::vector<int> cluster_of(points.count, -1);
  for (int round = 0; round < lloyd_rounds; ++round) {
    std::vector<int> next(points.count, 0);
    for (int p = 0; p < points.count; ++p) {
      distance[p] = std::numeric_limits<double>::infinity();
      for (int c = 0; c < clusters; ++c) {
        const double d = points.squared_distance(points[p], centre.data() + size_t(c) * points.length);
        if (d < distance[p]) distance[p] = d, next[p] = c;
      }
    }
    fill_empty(next, distance, clusters);
    if (next == cluster_of) break;
    cluster_of = std::move(next);
    centre = points.centres(cluster_of, clusters);
  }
  return cluster_of;
}

double cosine_distance(const Points& points, int a, int b) {
  double dot = 0, aa = 0, bb = 0;
  for (int i = 0; i < points.length; ++i) {
    dot += points[a][i] * points[b][i];
    aa += points[a][i] * points[a][i];
    bb += points[b][i] * points[b][i];
  }
  if (aa == 0 || bb == 0) return aa == bb ? 0 : 1;
  const double distance = 1 - dot / std::sqrt(aa * bb);
  return std::isfinite(distance) ? distance : 1;  // squares past the range of double
}

/// Merges the two clusters of least mean pairwise distance until `clusters` are left. A cluster goes by its lowest member.
std::vector<int> average_linkage(const Points& points, int clusters) {
  const int n = points.count;
  std::vector<double> between(size_t(n) * n, 0.0);  // sum of pairwise distances between the clusters named by their lowest members
  for (int a = 0; a < n; ++a)
    for (int b = a + 1; b < n; ++b) between[size_t(a) * n + b] = between[size_t(b) * n + a] = cosine_distance(points, a, b);
  std::vector<int> cluster_of(n), members(n, 1);
  for (int p = 0; p < n; ++p) cluster_of[p] = p;
  for (int left = n; left > clusters; --left) {
    int first = -1, second = -1;
    double least = std::numeric_limits<double>::infinity();
    for (int a = 0; a < n; ++a)
      for (int b = a + 1; b < n; ++b) {
        if (members[a] == 0 || members[b] == 0) continue;
        const double mean = between[size_t(a) * n + b] / (double(members[a]) * members[b]);
        if (mean < least) least = mean, first = a, second = b;
      }
    for (int other = 0; other < n; ++other) {
      between[size_t(first) * n + other] += between[size_t(second) * n + other];
      between[size_t(other) * n + first] = between[size_t(first) * n + other];
    }
    members[first] += members[second];
    members[second] = 0;
    for (int& c : cluster_of)
      if (c == second) c = first;
  }
  return cluster_of;
}

/// Numbers clusters by their lowest member.
std::vector<int> renumbered(const std::vector<int>& cluster_of) {
  std::vector<int> seen, result;
  for (const int c : cluster_of) {
    const auto found = std::find(seen.begin(), seen.end(), c);
    result.push_back(int(found - seen.begin()));
    if (found == seen.end()) seen.push_back(c);
  }
  return result;
}

/// Squared distance of every head to every centre: [heads x clusters].
std::vector<double> distances_to_centres(const Points& points, const std::vector<int>& cluster_of, int clusters) {
  const std::vector<double> centre = points.centres(cluster_of, clusters);
  std::vector<double> distance;
  for (int p = 0; p < points.count; ++p)
    for (int c = 0; c < clusters; ++c) distance.push_back(points.squared_distance(points[p], centre.data() + size_t(c) * points.length));
  return distance;
}

/// For each cluster the head nearest its centre among those `allowed(head, cluster)`, or -1. Distances within `tie` of the least are
/// equal, so that the lowest head wins: the two members of a pair are always equally far, and rounding must not choose between them.
template <class Allowed>
std::vector<int> nearest_heads(const std::vector<double>& distance, int heads, int clusters, Allowed allowed) {
  constexpr double tie = 1e-5;
  std::vector<int> nearest(clusters, -1);
  for (int c = 0; c < clusters; ++c) {
    const auto of = [&](int h) { return distance[size_t(h) * clusters + c]; };
    double least = std::numeric_limits<double>::infinity();
    for (int h = 0; h < heads; ++h)
      if (allowed(h, c)) least = std::min(least, of(h));
    for (int h = heads - 1; h >= 0; --h)
      if (allowed(h, c) && of(h) <= least * (1 + tie)) nearest[c] = h;
  }
  return nearest;
}

/// Key heads that cover most clusters, greedily: a cluster is covered when one of its members uses a chosen key head.
std::vector<bool> choose_key_heads(const std::vector<int>& cluster_of, const std::vector<int>& key_of, int key_heads, int clusters,
                                   int limit) {
  std::vector<bool> chosen(key_heads), covered(clusters);
  for (int round = 0; round < limit; ++round) {
    int best = -1, best_gain = -1;
    for (int key = 0; key < key_heads; ++key) {
      if (chosen[key]) continue;
      std::vector<bool> gains(clusters);
      bool present = false;
      for (size_t h = 0; h < cluster_of.size(); ++h)
        if (key_of[h] == key) present = true, gains[cluster_of[h]] = !covered[cluster_of[h]];
      const int gain = int(std::count(gains.begin(), gains.end(), true));
      if (present && gain > best_gain) best = key, best_gain = gain;
    }
    if (best < 0) break;
    chosen[best] = true;
    for (size_t h = 0; h < cluster_of.size(); ++h)
      if (key_of[h] == best) covered[cluster_of[h]] = true;
  }
  return chosen;
}

std::vector<int> representatives_of(const Points& points, const std::vector<int>& cluster_of, int clusters, const std::vector<int>& key_of,
                                    int key_heads, int limit) {
  const std::vector<double> distance = distances_to_centres(points, cluster_of, clusters);
  const auto member = [&](int h, int c) { return cluster_of[h] == c; };
  std::vector<int> chosen = nearest_heads(distance, points.count, clusters, member);
  std::vector<bool> used(key_heads);
  for (const int h : chosen) used[key_of[h]] = true;
  if (limit == 0 || std::count(used.begin(), used.end(), true) <= limit) return chosen;
  const std::vector<bool> allowed = choose_key_heads(cluster_of, key_of, key_heads, clusters, limit);
  chosen = nearest_heads(distance, points.count, clusters, [&](int h, int c) { return member(h, c) && allowed[key_of[h]]; });
  const std::vector<int> outside = nearest_heads(distance, points.count, clusters, [&](int h, int) { return bool(allowed[key_of[h]]); });
  for (int c = 0; c < clusters; ++c)
    if (chosen[c] < 0) chosen[c] = outside[c];
  return chosen;
}

}  // namespace

Membership cluster_heads(std::span<const double> features, int heads, int key_value_heads, const ClusterRule& rule) {
  const int length = int(features.size() / size_t(heads));
  const int groups = rule.head_groups, size = heads / groups, clusters = rule.clusters / groups, group_of_key = heads / key_value_heads;
  Membership membership;
  for (int first = 0; first < heads; first += size) {  // groups are contiguous, so numbering by lowest member holds overall
    const Points points(features, first, size, length);
    const auto cluster_of = renumbered(rule.method == Clustering::kmeans ? kmeans(points, clusters) : average_linkage(points, clusters));
    std::vector<int> key_of;
    for (int h = 0; h < size; ++h) key_of.push_back((first + h) / group_of_key);
    const auto chosen = representatives_of(points, cluster_of, clusters, key_of, key_value_heads, rule.key_heads / groups);
    const int offset = int(membership.representatives.size());
    for (const int c : cluster_of) membership.cluster_of.push_back(offset + c);
    for (const int h : chosen) membership.representatives.push_back(first + h);
  }
  return membership;
}

}  // namespace chai
