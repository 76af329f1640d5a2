// Decode attention against double precision: head sizes, head maps, ragged lengths, short segments, shares, graphs.
#include "attention_case.h"
#include "attention_plan.h"

namespace chai::cuda {
namespace {

constexpr Element f16 = Element::float16, bf16 = Element::bfloat16;
constexpr HeadKind kinds[] = {HeadKind::dense, HeadKind::clustered, HeadKind::free, HeadKind::shared_layers};

TEST(cuda_decode_head_sizes_and_types) {
  for (const auto& [head_dim, compute, cache] : {std::tuple{64, f16, f16},
                                                 {128, f16, f16},
                                                 {128, bf16, bf16},
                                                 {80, bf16, bf16},
                                                 {96, f16, f16},
                                                 {256, f16, f16},
                                                 {256, bf16, f16},
                                                 {128, f16, bf16},
                                                 {64, bf16, f16},
                                                 {40, f16, f16},
                                                 {33, bf16, bf16},
                                                 {12, f16, f16},
                                                 {200, f16, f16}}) {
    AttentionCase c(attention_config(4, 4, head_dim), compute, cache, 1);
    const int lengths[] = {1, 65, 130};
    for (int i = 0; i < 3; ++i) c.add_segment(c.add_sequence(kinds[i + (i > 0)]), lengths[i] - 1, 1);
    c.device().processors = 5;
    c.build();
    CHECK(c.error(c.run()) <= 1);
  }
}

TEST(cuda_decode_head_maps_and_page_edges) {
  for (const int key_value_heads : {8, 4, 2, 1})
    for (const HeadKind kind : kinds) {
      AttentionCase c(attention_config(8, key_value_heads, 64), f16, f16, uint32_t(10 * key_value_heads) + uint32_t(kind));
      for (const int length : {1, 63, 64, 65, 128, 201}) c.add_segment(c.add_sequence(kind), length - 1, 1);
      c.device().processors = 1 + int(c.random()() % 12);
      c.build();
      CHECK(c.error(c.run()) <= 1);
    }
}

TEST(cuda_decode_every_cluster_count) {
  const Config config = attention_config(9, 9, 64);
  AttentionCase c(config, bf16, bf16, 3);
  for (int clusters = 1; clusters <= 9; ++clusters) {
    c.add_segment(c.add_sequence(random_clusters_map(config, clusters, c.random())), 20 * clusters, 1);
  }
  c.build();
  CHECK(c.error(c.run()) <= 1);
}

/// More work units than the plan lists at once, of sequences whose tables differ.
TEST(cuda_decode_of_many_sequences) {
  const Config config = attention_config(8, 8, 64);
  AttentionCase c(config, f16, f16, 12);
  for (int i = 0; i < 44; ++i) {
    const int clusters = 8 - i % 3;
    c.add_segment(c.add_sequence(random_clusters_map(config, clusters, c.random())), 3 + i * 5 % 70, 1);
  }
  c.build();
  CHECK(c.error(c.run()) <= 1);
}

TEST(cuda_decode_short_segments) {
  for (const int key_value_heads : {4, 2}) {
    AttentionCase c(attention_config(4, key_value_heads, 64), f16, f16, 4);
    for (int count = 1; count <= 8; ++count) c.add_segment(c.add_sequence(kinds[count % 4]), count % 3 == 0 ? 0 : 60 * (count % 3), count);
    c.device().processors = 9;
    c.build();
    CHECK(c.error(c.run()) <= 1);
  }
}

TEST(cuda_decode_sliding_window) {
  for (const int window : {1, 7, 64, 100}) {
    Config config = attention_config(4, 2, 64);
    config.sliding_window = window;
    AttentionCase c(config, f16, f16, 5);
    for (const int position : {0, 6, 63, 64, 163, 300}) c.add_segment(c.add_sequence(kinds[position % 4]), position, 1 + position % 3 * 3);
    c.build();
    CHECK(c.error(c.run()) <= 1);
  }
}

TEST(cuda_decode_any_shares_and_schedules) {
  for (unsigned seed = 0; seed < 6; ++seed) {
    set_schedule(seed);
    AttentionCase c(attention_config(4, 4, 64), f16, f16, 6);
    for (const int length : {700, 33, 257}) c.add_segment(c.add_sequence(HeadKind::clustered), length - 1, 1);
    c.device().processors = seed == 0 ? 1 : int(seed * seed * 7);
    c.build();
    CHECK(c.error(c.run()) <= 1);
  }
  set_schedule(0);
}

/// In every layer clusters of these sizes, of heads drawn at random.
HeadMap clusters_of_sizes(const Config& config, const std::vector<int>& sizes, std::mt19937& random) {
  HeadMap map;
  for (int layer = 0; layer < config.layers; ++layer) {
    std::vector<int> heads = random_subset(config.heads, config.heads, random);
    Membership membership;
    membership.cluster_of.resize(heads.size());
    for (size_t cluster = 0; cluster < sizes.size(); ++cluster) {
      membership.representatives.push_back(heads.back());
      for (int i = 0; i < sizes[cluster]; ++i) membership.cluster_of[size_t(heads.back())] = int(cluster), heads.pop_back();
    }
    map.push_back(clustered_heads(config, layer, membership));
  }
  return map;
}

const std::vector<std::vector<int>> sizes_of_16 = {{5, 6, 5}, {8, 7, 1}, {9, 7}, {16}, {4, 4, 4, 4}, {13, 1, 1, 1}};

/// Few workers, so that even short sequences are much to read: up to 8 V slots share one reading of their keys.
TEST(cuda_decode_wide_groups) {
  for (const auto& [head_dim, compute, cache] :
       {std::tuple{64, f16, f16}, {128, bf16, bf16}, {80, f16, f16}, {96, bf16, f16}, {256, f16, f16}}) {
    const Config config = attention_config(16, 16, head_dim);
    AttentionCase c(config, compute, cache, 8);
    const int lengths[] = {65, 64, 201, 130, 63, 1};
    for (size_t i = 0; i < 6; ++i) c.add_segment(c.add_sequence(clusters_of_sizes(config, sizes_of_16[i], c.random())), lengths[i] - 1, 1);
    c.add_segment(c.add_sequence(HeadKind::dense), 70, 1);
    c.add_segment(c.add_sequence(HeadKind::shared_layers), 66, 1);
    c.device().processors = 1, c.device().shared_bytes = 227 * 1024;  // three workers up to head size 128
    c.build();
    CHECK(c.error(c.run()) <= 1);
  }
}

TEST(cuda_decode_wide_groups_of_short_segments) {
  const Config config = attention_config(16, 16, 64);
  AttentionCase c(config, f16, f16, 9);
  for (int count = 1; count <= 8; ++count) {
    const int sequence = count % 4 == 3 ? c.add_sequence(HeadKind::free)
                                        : c.add_sequence(clusters_of_sizes(config, sizes_of_16[size_t(count) % 4], c.random()));
    c.add_segment(sequence, 60 * (count % 3), count);
  }
  c.device().processors = 1, c.device().shared_bytes = 227 * 1024;
  c.build();
  CHECK(c.error(c.run()) <= 1);
}

/// One cluster of 16, whose two groups are each read by several workers; recorded steps give the same bits.
TEST(cuda_decode_wide_groups_over_many_workers) {
  for (const auto& [head_dim, type, count] : {std::tuple{64, bf16, 8}, {128, f16, 1}}) {
    const Config config = attention_config(16, 16, head_dim);
    AttentionCase c(config, type, type, 10);
    c.add_segment(c.add_sequence(clusters_of_sizes(config, {16}, c.random())), 1210, count);
    c.device().processors = 3, c.device().shared_bytes = 227 * 1024;  // nine workers
    c.build();
    Attention attention(config, 8, 1, c.device());
    const auto eager = c.run(attention);
    CHECK(c.error(eager) <= 1);
    if (count == 1) CHECK(eager == c.run(attention, 1));
  }
}

/// Few V slots of many heads are little to read, though the step is long: a share still holds a tile of keys with all its values.
TEST(cuda_decode_wide_groups_in_small_shares) {
  const Config config = attention_config(64, 64, 64);
  HeadMap map;
  for (int layer = 0; layer < config.layers; ++layer) {
    LayerHeads heads{layer, std::vector<int>(64, 0), {5}, {0}, {5}, {}, {0, 9, 18, 27, 36, 45, 54, 63}};
    for (int h = 0; h < 64; ++h) heads.value_of_query.push_back(h % 8);
    map.push_back(heads);
  }
  AttentionCase c(config, f16, f16, 13);
  c.add_segment(c.add_sequence(map), 383, 1);
  c.device().processors = 3, c.device().shared_bytes = 227 * 1024;  // nine workers
  c.build();
  CHECK(c.error(c.run()) <= 1);
}

/// The groups of all layers as the kernel plans them for so many workers.
std::vector<DecodeGroup> planned_groups(AttentionCase& c, int workers) {
  const StepLaunch step = c.launch();
  const int layers = step.geometry.layers, capacity = step.sequences * step.geometry.heads;
  const Upload<DecodeHeader> headers{std::vector<DecodeHeader>(size_t(layers))};
  const Upload<DecodeGroup> groups{std::vector<DecodeGroup>(size_t(layers * capacity))};
  const Upload<int32_t> first_group{std::vector<int32_t>(size_t(layers * workers))};
  const Upload<int32_t> counts{std::vector<int32_t>(size_t(layers * step.sequences))};
  plan_decode(step, {headers.get(), groups.get(), first_group.get(), counts.get(), capacity, workers, step.sequences}, 0, layers);
  std::vector<DecodeGroup> out;
  const auto all_headers = headers.read();
  const auto all_groups = groups.read();
  for (int layer = 0; layer < layers; ++layer) {
    const DecodeHeader& header = all_headers[size_t(layer)];
    int64_t tiles = 0;
    for (int i = 0; i < header.groups; ++i) {
      out.push_back(all_groups[size_t(layer * capacity + i)]);
      CHECK(out.back().start == tiles);
      tiles += int64_t(out.back().tiles) * (1 + out.back().value_count);
    }
    CHECK(header.total == tiles);
  }
  return out;
}

/// Device memory is read as often as it must be: the keys of a slot once for every 8 V slots, or for every 4 in a step with little to read,
/// whatever else is in the step; values once.
TEST(cuda_decode_reads_keys_once_for_eight_values) {
  const Config config = attention_config(32, 32, 16);
  AttentionCase c(config, f16, f16, 11);
  const std::vector<std::vector<int>> sizes = {{8, 8, 8, 8}, {20, 6, 4, 2}, {4, 4, 4, 4, 4, 4, 4, 4}, {32}};
  for (const auto& one : sizes) c.add_segment(c.add_sequence(clusters_of_sizes(config, one, c.random())), 320, 1);  // 6 tiles
  c.add_segment(c.add_sequence(HeadKind::dense), 320, 1);
  c.build();
  const int tiles = 5 * 6 * 32;  // of values in a layer
  for (const auto& [workers, width] : {std::pair{tiles / wide_share, 8}, {tiles / wide_share + 1, 4}}) {
    int expected = 32;
    for (const auto& one : sizes)
      for (const int heads : one) expected += (heads + width - 1) / width;
    const auto groups = planned_groups(c, workers);
    int values = 0;
    for (const DecodeGroup& group : groups) values += group.value_count;
    CHECK(int(groups.size()) == config.layers * expected);
    CHECK(values == config.layers * 5 * 32);
  }
}

/// Tiles that a step of these sequences reads in a layer, as a part of those of dense ones.
TEST(cuda_decode_reads_the_least_bytes) {
  const Config config = attention_config(32, 32, 16);
  for (const auto& [sizes, most] : {std::pair{std::vector<int>{8, 8, 8, 8}, 36}, {{20, 6, 4, 2}, 38}, {{32}, 36}, {{31, 1}, 37}}) {
    AttentionCase c(config, f16, f16, 12);
    c.add_segment(c.add_sequence(clusters_of_sizes(config, sizes, c.random())), 255, 1);
    c.build();
    int64_t tiles = 0;
    for (const DecodeGroup& group : planned_groups(c, 3)) tiles += int64_t(group.tiles) * (1 + group.value_count);
    CHECK(tiles == int64_t(config.layers) * 4 * most);
  }
}

TEST(cuda_decode_replays_in_a_larger_bucket) {
  AttentionCase c(attention_config(4, 2, 64), f16, f16, 7);
  for (const int length : {300, 65, 1}) c.add_segment(c.add_sequence(HeadKind::free), length - 1, 1);
  c.device().processors = 6;
  c.build();
  Attention attention(attention_config(4, 2, 64), 4, 4, c.device());
  const auto eager = c.run(attention), replayed = c.run(attention, 4), again = c.run(attention, 4);
  CHECK(c.error(eager) <= 1);
  CHECK(eager == replayed);
  CHECK(eager == again);
}

}  // namespace
}  // namespace chai::cuda
