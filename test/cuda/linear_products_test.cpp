// Embedding, output projection, feed-forward, norms and logits through every path against double precision, and the rule that warm-up
// steps rest on: a row's bits depend on nothing but the row.
#include "linear_products.h"

namespace chai::cuda {

TEST(cuda_output_adds_to_the_residual_stream) {
  for (const Element type : {Element::float16, Element::bfloat16})
    for (const int rows : {1, 2, 3, 4, 5, 17, 40, 64, 70, 300}) check_output(odd_config(5, 5, 7, false), type, rows, rows % 2 == 1);
  for (const int rows : {1, 9, 150}) check_output(with_hidden(odd_config(4, 4, 64, true), 1000, 16), Element::float16, rows, false);
  for (const int rows : {1, 3, 33, 130}) check_output(opt_config(NormPlacement::after, Activation::relu), Element::bfloat16, rows, true);
  check_output(odd_config(5, 5, 7, false), Element::float16, 2, true, true);
  for (const int bucket : {4, 8, 64, 256}) check_output(odd_config(5, 5, 7, false), Element::float16, 3, true, false, bucket);
}

TEST(cuda_feed_forward) {
  for (const Element type : {Element::float16, Element::bfloat16})
    for (const int rows : {1, 2, 3, 6, 30, 50, 90}) check_feed_forward(odd_config(4, 4, 10, true), type, rows, rows % 2 == 0);
  for (const Activation activation : {Activation::relu, Activation::silu, Activation::gelu, Activation::gelu_tanh})
    for (const int rows : {2, 20}) check_feed_forward(opt_config(NormPlacement::before, activation), Element::float16, rows, true);
  for (const int rows : {1, 5, 140}) {
    check_feed_forward(opt_config(NormPlacement::after, Activation::relu), Element::float16, rows, true);
    check_feed_forward(with_hidden(odd_config(4, 4, 10, true), 264, 600), Element::float16, rows, false);
  }
  for (const int bucket : {4, 8, 64}) check_feed_forward(odd_config(4, 4, 10, true), Element::float16, 3, true, false, bucket);
}

TEST(cuda_logits_of_the_rows_that_want_them) {
  Config narrow = odd_config(4, 4, 10, true);
  narrow.embedding = 20;
  for (const Element type : {Element::float16, Element::bfloat16}) {
    check_logits(odd_config(4, 4, 10, true), type, 9, {8}, true);
    check_logits(odd_config(4, 4, 10, true), type, 9, {0, 3, 8}, true);
    check_logits(odd_config(4, 4, 10, true), type, 40, {0, 3, 8, 9, 20, 39}, false);
    check_logits(narrow, type, 9, {2, 5}, true);
    check_logits(narrow, type, 30, {1, 2, 5, 7, 11, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29}, true);
  }
  check_logits(narrow, Element::float16, 4, {1, 2, 3}, true, 4);
  check_logits(odd_config(4, 4, 10, true), Element::float16, 6, {1, 2, 3, 4, 5}, true, 8);
}

TEST(cuda_embed) {
  Config narrow = odd_config(4, 4, 10, false);
  narrow.embedding = 20;
  for (const Element type : {Element::float16, Element::bfloat16})
    for (const int rows : {1, 4, 7, 70})
      for (const bool positions : {false, true}) {
        check_embed(odd_config(4, 4, 10, true), type, rows, positions);
        check_embed(narrow, type, rows, positions);
      }
  check_embed(narrow, Element::float16, 3, true, 4);
  check_embed(odd_config(4, 4, 10, true), Element::float16, 3, false, 8);
}

TEST(cuda_products_under_other_schedules) {
  for (uint64_t seed = 1; seed < 6; ++seed) {
    use_seed(seed);
    for (const int rows : {1, 4, 12, 64, 130}) {
      check_output(with_hidden(odd_config(4, 4, 64, true), 150, 16), Element::float16, rows, true);
      check_feed_forward(with_hidden(odd_config(4, 4, 10, true), 150, 100), Element::bfloat16, rows, true);
    }
    check_logits(odd_config(4, 4, 10, true), Element::float16, 9, {0, 8}, true);
  }
  use_seed(0);
}

/// Columns enough for several parts, processors enough for them all.
TEST(cuda_products_of_tiles_that_several_blocks_share) {
  const Config wide = with_hidden(odd_config(8, 8, 125, false), 150, 16);
  check_output(wide, Element::bfloat16, 5, true, false, 0, {40});
  for (const int rows : {16, 30, 70}) check_output(wide, Element::float16, rows, rows == 30, false, 0, {40});
  check_output(wide, Element::float16, 6, true, false, 8, {7});  // a few parts only, rows of a bucket
  for (const int rows : {7, 40})
    check_feed_forward(with_hidden(odd_config(4, 4, 10, true), 600, 530), Element::float16, rows, true, false, 0, {30});
}

/// The second run of the same step, under any schedule or replayed, gives the same bits; whole tiles add up in another order.
TEST(cuda_bits_of_shared_tiles_are_the_same_in_every_run) {
  const Config c = with_hidden(odd_config(8, 8, 125, false), 150, 16);
  constexpr int rows = 33;
  Fixture f(c, Element::float16, rows, {40});
  const Layer layer(f, true);
  Ragged ragged = one_sequence(c);
  StepLaunch step = plain_step(f, ragged, rows);
  const std::vector<float> before = f.rows(rows, c.hidden);
  const Buffer<uint16_t> from(f.narrow_rows(f.rows(rows, c.query_width())));
  const Buffer<float> x(before);
  const auto run = [&](bool warm_up, bool recorded) {
    x.write(before);
    const Stream stream = recorded ? make_stream() : nullptr;
    step.warm_up = warm_up, step.stream = stream;
    if (recorded) begin_capture(stream);
    f.linear.output(step, layer.weights, from.get(), x.get());
    if (!recorded) return x.read();
    const Graph graph = end_capture(stream);
    replay(graph, stream);
    synchronize(stream);
    free_graph(graph), free_stream(stream);
    return x.read();
  };
  const auto same = [](const std::vector<float>& a, const std::vector<float>& b) {
    return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
  };
  const std::vector<float> first = run(false, false);
  CHECK(!same(first, run(true, false)));
  for (uint64_t seed = 0; seed < 6; ++seed) {
    use_seed(seed);
    CHECK(same(first, run(false, seed % 2 == 1)));
  }
  use_seed(0);
}

/// The same row first alone, then among others, at other places, in steps with warm-up rows.
TEST(cuda_bits_of_a_row_depend_on_nothing_but_the_row) {
  const Config c = with_hidden(odd_config(6, 3, 24, true), 200, 72);
  constexpr int most = 300;
  Fixture f(c, Element::float16, most);
  const Layer layer(f, true);
  ModelWeights model;
  model.final_norm = layer.weights.attention_norm;
  model.output = f.tensor(c.vocabulary, c.hidden, 0.3f).device;
  const std::vector<float> x = f.rows(most, c.hidden), mixed = f.rows(most, c.query_width());
  const std::vector<float> the_x = f.rows(1, c.hidden), the_mixed = f.rows(1, c.query_width());
  std::vector<float> first, first_logits;
  const std::vector<std::pair<int, int>> places{{1, 0}, {2, 1}, {5, 3}, {16, 15}, {33, 20}, {64, 63}, {70, 41}, {300, 299}, {300, 130}};
  for (size_t i = 0; i <= places.size(); ++i) {
    const auto [rows, place] = places[std::min(i, places.size() - 1)];
    if (i == places.size()) f.widen_blocks();
    Ragged ragged = one_sequence(c);
    ragged.step.logit_rows = {int32_t(place)};
    const StepLaunch step = plain_step(f, ragged, rows, true);
    std::vector<float> all_x(x.begin(), x.begin() + rows * pitch_of(c.hidden));
    std::vector<float> all_mixed(mixed.begin(), mixed.begin() + rows * pitch_of(c.query_width()));
    std::copy(the_x.begin(), the_x.end(), all_x.begin() + place * pitch_of(c.hidden));
    std::copy(the_mixed.begin(), the_mixed.end(), all_mixed.begin() + place * pitch_of(c.query_width()));
    const Buffer<float> on_device(all_x), logits{size_t(c.vocabulary)};
    const Buffer<uint16_t> from(f.narrow_rows(all_mixed));
    f.linear.output(step, layer.weights, from.get(), on_device.get());
    f.linear.feed_forward(step, layer.weights, on_device.get());
    f.linear.logits(step, model, on_device.get(), logits.get());
    const std::vector<float> out = on_device.read();
    const std::vector<float> row(out.begin() + place * pitch_of(c.hidden), out.begin() + (place + 1) * pitch_of(c.hidden));
    if (first.empty()) first = row, first_logits = logits.read();
    CHECK(std::memcmp(first.data(), row.data(), row.size() * sizeof(float)) == 0);
    CHECK(std::memcmp(first_logits.data(), logits.read().data(), first_logits.size() * sizeof(float)) == 0);
  }
}

}  // namespace chai::cuda
