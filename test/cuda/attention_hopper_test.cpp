// The prefill kernel for Hopper against double precision: the cases of the kernel for every device, and what only this one can get wrong.
// On a device other than compute capability 9.0 it is left out.
#include "attention_case.h"

namespace chai::cuda {
namespace {

constexpr Element f16 = Element::float16, bf16 = Element::bfloat16;

/// Runs a built case by the kernel for Hopper; its error as AttentionCase::error, infinite when another kernel would have run.
std::vector<std::vector<uint16_t>> run_on_hopper(const Config& config, AttentionCase& c) {
#if __has_include("simt_fiber.h")
  c.device().capability = 90, c.device().shared_bytes = 227 * 1024;
#endif
  Attention attention(config, std::max(64, c.rows()), std::max(1, int(c.step().sequences.size())), c.device(), {true});
  CHECK(attention.hopper_prefill());
  return c.run(attention);
}
double hopper_error(const Config& config, AttentionCase& c) { return c.error(run_on_hopper(config, c)); }

TEST(cuda_hopper_one_tile) {
  for (const int head_dim : {64, 128})
    for (const Element type : {f16, bf16}) {
      needs_hopper();
      const Config config = attention_config(1, 1, head_dim);
      AttentionCase c(config, type, type, 1);
      c.add_segment(c.add_sequence(HeadKind::dense), 0, 64);
      c.build();
      CHECK(hopper_error(config, c) <= 1);
    }
}

TEST(cuda_hopper_schedules_and_heads_that_share_scores) {
  needs_hopper();
  for (unsigned seed = 0; seed < 6; ++seed) {
    set_schedule(seed);
    const Config config = attention_config(3, 3, seed % 2 ? 64 : 128);
    AttentionCase c(config, seed < 3 ? f16 : bf16, seed < 3 ? f16 : bf16, 1 + seed);
    c.add_segment(c.add_sequence(HeadKind::clustered), 250, 70);  // several rounds of the ring
    c.build();
    CHECK(hopper_error(config, c) <= 1);
  }
  set_schedule(0);
}

TEST(cuda_hopper_head_maps_and_chunks) {
  needs_hopper();
  const int places[][2] = {{0, 140}, {37, 64}, {64, 9}, {127, 30}, {300, 9}};  // position, count
  for (const int key_value_heads : {4, 2})
    for (const HeadKind kind : {HeadKind::dense, HeadKind::clustered, HeadKind::free, HeadKind::shared_layers}) {
      const Config config = attention_config(4, key_value_heads, 64);
      AttentionCase c(config, f16, f16, 20 + uint32_t(kind));
      for (const auto& [position, count] : places)
        if ((position + key_value_heads / 2 + int(kind)) % 2 == 0) c.add_segment(c.add_sequence(kind), position, count);
      c.build();
      CHECK(hopper_error(config, c) <= 1);
    }
}

TEST(cuda_hopper_every_cluster_size) {
  needs_hopper();
  const Config config = attention_config(5, 5, 128);
  AttentionCase c(config, bf16, bf16, 3);
  for (int clusters = 1; clusters <= 5; ++clusters) {
    c.add_segment(c.add_sequence(random_clusters_map(config, clusters, c.random())), 3 * clusters, 9 + 12 * clusters);
  }
  c.build();
  CHECK(hopper_error(config, c) <= 1);
}

/// Keys before the window are gone, and their pages hold NaN: the values' rows beside the valid ones must be cleared, at both ends.
TEST(cuda_hopper_sliding_window) {
  needs_hopper();
  for (const int window : {1, 7, 64, 200}) {
    Config config = attention_config(2, 2, window == 7 ? 128 : 64);
    config.sliding_window = window;
    AttentionCase c(config, f16, f16, 5);
    c.add_segment(c.add_sequence(HeadKind::clustered), 0, 140);
    c.add_segment(c.add_sequence(HeadKind::free), 310, 30);
    c.build();
    CHECK(hopper_error(config, c) <= 1);
  }
}

TEST(cuda_hopper_page_edges) {
  needs_hopper();
  const Config config = attention_config(2, 2, 128);
  AttentionCase c(config, f16, f16, 9);
  for (const int count : {9, 63, 64, 65, 127, 128, 129})
    c.add_segment(c.add_sequence(count % 2 ? HeadKind::clustered : HeadKind::dense), 0, count);
  for (const int position : {1, 63, 64, 119}) c.add_segment(c.add_sequence(HeadKind::clustered), position, 9);
  c.build();
  CHECK(hopper_error(config, c) <= 1);
}

/// Page ids come to the loader 32 at a time.
TEST(cuda_hopper_many_pages) {
  needs_hopper();
  const Config config = attention_config(2, 2, 64);
  AttentionCase c(config, bf16, bf16, 11);
  c.add_segment(c.add_sequence(HeadKind::clustered), 2200, 9);
  c.build();
  CHECK(hopper_error(config, c) <= 1);
}

TEST(cuda_hopper_mixed_step_with_warm_up) {
  needs_hopper();
  for (unsigned seed = 0; seed < 4; ++seed) {
    set_schedule(seed);
    const Config config = attention_config(4, seed % 2 ? 2 : 4, 64);
    AttentionCase c(config, f16, f16, 30 + seed);
    add_mixed_step(c);
    c.build();
    CHECK(hopper_error(config, c) <= 1);
  }
  set_schedule(0);
}

/// Rows behind `cut` of 140, as one chunk or as a second one.
std::vector<uint16_t> rows_behind(int head_dim, int cut, int first) {
  const Config config = attention_config(8, 8, head_dim);
  AttentionCase c(config, f16, f16, 12);
  c.add_segment(c.add_sequence(HeadKind::clustered), first, 140 - first);
  c.build();
  const auto mixed = run_on_hopper(config, c);
  return {mixed[1].begin() + (cut - first) * c.pitch(), mixed[1].begin() + (140 - first) * c.pitch()};
}

/// Each cut leaves other rows with a last tile of which they see nothing.
TEST(cuda_hopper_chunks_give_the_same_bits) {
  needs_hopper();
  for (const int head_dim : {64, 128})
    for (const int cut : {45, 70}) CHECK(rows_behind(head_dim, cut, 0) == rows_behind(head_dim, cut, cut));
}

/// Bits of the warm-up rows, alone or among others.
std::vector<uint16_t> warm_up_rows(int others) {
  const Config config = attention_config(4, 4, 64);
  AttentionCase c(config, f16, f16, 40);
  c.add_segment(c.add_sequence(HeadKind::clustered, true), 0, 8, true);
  for (int i = 0; i < others; ++i) c.add_segment(c.add_sequence(i % 2 ? HeadKind::clustered : HeadKind::dense), 40 * i, 20);
  c.build();
  const auto mixed = run_on_hopper(config, c);
  CHECK(c.error(mixed) <= 1);
  return {mixed[1].begin(), mixed[1].begin() + 8 * c.pitch()};
}

TEST(cuda_hopper_warm_up_rows_do_not_depend_on_the_batch) {
  needs_hopper();
  CHECK(warm_up_rows(0) == warm_up_rows(3));
}

/// Where it cannot serve, the option changes nothing.
TEST(cuda_hopper_falls_back) {
  for (const auto& [head_dim, cache] : {std::pair{80, f16}, {96, bf16}}) {
    const Config config = attention_config(2, 2, head_dim);
    AttentionCase c(config, f16, cache, 7);
    c.add_segment(c.add_sequence(HeadKind::clustered), 10, 30);
    c.build();
    Attention with(config, 64, 1, c.device(), {true}), without(config, 64, 1, c.device());
    const auto mixed = c.run(with);
    CHECK(c.error(mixed) <= 1);
    CHECK(mixed == c.run(without));
  }
}

}  // namespace
}  // namespace chai::cuda
