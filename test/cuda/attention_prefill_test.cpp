// Prefill attention against double precision: head sizes, head maps, chunks against a cache, warm-up, windows, mixed steps.
#include "attention_case.h"

namespace chai::cuda {
namespace {

constexpr Element f16 = Element::float16, bf16 = Element::bfloat16;
constexpr HeadKind kinds[] = {HeadKind::dense, HeadKind::clustered, HeadKind::free, HeadKind::shared_layers};

TEST(cuda_prefill_head_sizes_and_types) {
  for (const auto& [head_dim, compute, cache] : {std::tuple{64, f16, f16},
                                                 {128, f16, f16},
                                                 {128, bf16, bf16},
                                                 {80, bf16, bf16},
                                                 {96, f16, f16},
                                                 {256, f16, f16},
                                                 {256, bf16, f16},
                                                 {128, f16, bf16},
                                                 {40, f16, f16},
                                                 {33, bf16, bf16},
                                                 {200, f16, f16}}) {
    AttentionCase c(attention_config(3, 3, head_dim), compute, cache, 1);
    c.add_segment(c.add_sequence(HeadKind::clustered), 50, 30);
    c.add_segment(c.add_sequence(HeadKind::dense), 0, 20);
    c.build();
    CHECK(c.error(c.run()) <= 1);
  }
}

/// Capabilities 8.6, 8.9 and 12.0 have 99 KB of shared memory for a block, 9.0 has 227: how many tiles are on their way changes no bit.
TEST(cuda_prefill_in_little_shared_memory) {
  for (const int head_dim : {64, 80, 96, 128, 256}) {
    AttentionCase c(attention_config(4, 4, head_dim), f16, f16, 9);
    c.add_segment(c.add_sequence(HeadKind::clustered), 10, 150);
    c.add_segment(c.add_sequence(HeadKind::dense), 0, 70);
    c.build();
    c.device().shared_bytes = 99 * 1024;
    const auto little = c.run();
    CHECK(c.error(little) <= 1);
    c.device().shared_bytes = 227 * 1024;
    CHECK(c.run() == little);
  }
}

TEST(cuda_prefill_head_maps_and_chunks) {
  const int places[][2] = {{0, 150}, {37, 64}, {64, 9}, {127, 130}};  // position, count
  for (const int key_value_heads : {4, 2})
    for (const HeadKind kind : kinds) {
      AttentionCase c(attention_config(4, key_value_heads, 64), f16, f16, 20 + uint32_t(kind));
      for (const auto& [position, count] : places)
        if ((position + int(kind)) % 2 == 0 || key_value_heads == 4) c.add_segment(c.add_sequence(kind), position, count);
      c.build();
      CHECK(c.error(c.run()) <= 1);
    }
}

TEST(cuda_prefill_every_cluster_size) {
  const Config config = attention_config(6, 6, 64);
  AttentionCase c(config, bf16, bf16, 3);
  for (int clusters = 1; clusters <= 6; ++clusters) {
    c.add_segment(c.add_sequence(random_clusters_map(config, clusters, c.random())), 3 * clusters, 9 + 12 * clusters);
  }
  c.build();
  CHECK(c.error(c.run()) <= 1);
}

TEST(cuda_prefill_sliding_window) {
  for (const int window : {1, 7, 64, 100}) {
    Config config = attention_config(3, 3, 64);
    config.sliding_window = window;
    AttentionCase c(config, f16, f16, 5);
    c.add_segment(c.add_sequence(HeadKind::clustered), 0, 140);
    c.add_segment(c.add_sequence(HeadKind::free), 150, 30);
    c.build();
    CHECK(c.error(c.run()) <= 1);
  }
}

/// Rows behind `cut` of 200, as one chunk or as a second one.
std::vector<uint16_t> rows_behind(int head_dim, int cut, int first) {
  AttentionCase c(attention_config(6, 6, head_dim), f16, f16, 12);
  c.add_segment(c.add_sequence(HeadKind::clustered), first, 200 - first);
  c.build();
  const auto mixed = c.run();
  return {mixed[1].begin() + (cut - first) * c.pitch(), mixed[1].begin() + (200 - first) * c.pitch()};
}

/// Each cut gives rows another place in a warp, and leaves other warps with a last tile of which they see nothing.
TEST(cuda_prefill_chunks_give_the_same_bits) {
  for (const int head_dim : {64, 128, 256})
    for (const int cut : {45, 72, 113}) CHECK(rows_behind(head_dim, cut, 0) == rows_behind(head_dim, cut, cut));
}

TEST(cuda_attention_mixed_step_with_warm_up) {
  for (unsigned seed = 0; seed < 4; ++seed) {
    set_schedule(seed);
    AttentionCase c(attention_config(4, seed % 2 ? 2 : 4, 64), f16, f16, 30 + seed);
    add_mixed_step(c);
    c.build();
    CHECK(c.error(c.run()) <= 1);
  }
  set_schedule(0);
}

/// Bits of the warm-up rows, alone or among others, in one chunk or two.
std::vector<uint16_t> warm_up_rows(int others, int cut) {
  const Config config = attention_config(4, 4, 64);
  AttentionCase c(config, f16, f16, 40);
  const int sequence = c.add_sequence(HeadKind::clustered, true);
  c.add_segment(sequence, cut, 8 - cut, true);
  for (int i = 0; i < others; ++i) c.add_segment(c.add_sequence(kinds[i % 4]), 40 * i, i % 2 ? 1 : 20);
  c.build();
  const auto mixed = c.run();
  CHECK(c.error(mixed) <= 1);
  const auto from = mixed[1].begin();
  return {from, from + (8 - cut) * c.pitch()};
}

TEST(cuda_attention_warm_up_rows_do_not_depend_on_the_batch) {
  const std::vector<uint16_t> alone = warm_up_rows(0, 0), among = warm_up_rows(5, 0), second = warm_up_rows(3, 5);
  CHECK(alone == among);
  CHECK(std::equal(second.begin(), second.end(), alone.begin() + std::ptrdiff_t(alone.size() - second.size())));
}

}  // namespace
}  // namespace chai::cuda
