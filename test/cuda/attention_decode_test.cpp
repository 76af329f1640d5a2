// Decode attention against double precision: head sizes, head maps, ragged lengths, short segments, shares, graphs.
#include "attention_case.h"

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
