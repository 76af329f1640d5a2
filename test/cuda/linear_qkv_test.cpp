// Queries, keys and values through every path against double precision: random head maps, ragged segments, warm-up beside other rows.
// What no table names must stay unwritten, in the queries and in the pages.
#include "linear_fixture.h"

namespace chai::cuda {
namespace {

struct QkvLayer {
  LayerWeights weights;
  Tensor norm, norm_bias, weight[3], bias[3];
  bool biased;

  QkvLayer(Fixture& f, bool with_bias) : biased(with_bias) {
    const Config& c = f.config;
    norm = f.tensor(1, c.hidden, 0.2f, 1), norm_bias = f.tensor(1, c.hidden, 0.2f);
    weights.attention_norm = {norm.device, biased ? norm_bias.device : nullptr};
    chai::Linear* linears[] = {&weights.query, &weights.key, &weights.value};
    for (int kind = 0; kind < 3; ++kind) {
      const int width = kind == 0 ? c.query_width() : c.key_value_width();
      weight[kind] = f.tensor(width, c.hidden, 0.4f), bias[kind] = f.tensor(1, width, 0.4f);
      *linears[kind] = {weight[kind].device, biased ? bias[kind].device : nullptr};
    }
  }
};

/// One head of one projection of one row.
std::vector<Expected> expected_head(const Fixture& f, const QkvLayer& layer, int kind, int head, const std::vector<double>& row,
                                    int position) {
  const int d = f.config.head_dim, half = d / 2;
  std::vector<Expected> out;
  for (int i = 0; i < d; ++i)
    out.push_back(f.rounded_by_library(f.product(layer.weight[kind], layer.biased ? &layer.bias[kind] : nullptr, head * d + i, row)));
  if (kind == 2 || f.config.rotary_frequencies.empty()) return out;
  const std::vector<Expected> plain = out;
  for (int i = 0; i < half; ++i) {
    const double angle = double(float(position) * f.config.rotary_frequencies[size_t(i)]), scale = f.config.rotary_scale;
    const double c = std::cos(angle) * scale, s = std::sin(angle) * scale;
    const Expected a = plain[size_t(i)], b = plain[size_t(i + half)];
    out[size_t(i)] = {a.value * c - b.value * s, 1.5 * (a.bound + b.bound)};
    out[size_t(i + half)] = {b.value * c + a.value * s, 1.5 * (a.bound + b.bound)};
  }
  return out;
}

struct Outcome {
  std::vector<uint16_t> queries;
  std::vector<unsigned char> pool;
};

/// Compares what was written and clears it, so that whatever is left over was written without need.
struct Checker {
  const Fixture& f;
  const QkvLayer& layer;
  const Ragged& ragged;
  Outcome& got;
  int number;
  bool right = true;

  void head(uint16_t* at, Element type, int kind, int of, const std::vector<double>& row, int position) {
    const std::vector<Expected> want = expected_head(f, layer, kind, of, row, position);
    for (size_t i = 0; i < want.size(); ++i) {
      Expected e = want[i];
      e.bound += relative_step(type) * std::abs(e.value) + 1e-7;
      right &= close(widened(at[i], type), e);
      at[i] = 0xffff;
    }
  }
  uint16_t* cell(int32_t page, int position) const {
    const PoolView& pool = ragged.step.pool;
    return reinterpret_cast<uint16_t*>(got.pool.data() + size_t(page) * pool.page_bytes + size_t(position % page_rows) * pool.row_bytes);
  }
  void segment(const Segment& s, const float* x) {
    const Config& c = f.config;
    const Ragged::Sequence& sequence = ragged.sequences[size_t(s.sequence)];
    const PlanGeometry& geometry = *sequence.geometry;
    const LayerHeads heads = s.warm_up ? identity_heads(c, number) : sequence.map[size_t(number)];
    const bool before = c.norm_placement == NormPlacement::before;
    for (int i = 0; i < s.count; ++i) {
      const int row = s.row + i, position = s.position + i, block = position / page_rows;
      const float* from = x + size_t(row) * size_t(pitch_of(c.hidden));
      const auto normed = f.normed(from, c.hidden, before ? &layer.norm : nullptr, before && layer.biased ? &layer.norm_bias : nullptr);
      for (size_t slot = 0; slot < heads.query_of_score.size(); ++slot)
        head(&got.queries[size_t(row) * size_t(pitch_of(c.query_width())) + slot * size_t(c.head_dim)], ragged.cache, 0,
             heads.query_of_score[slot], normed, position);
      for (size_t slot = 0; slot < heads.kept_keys.size(); ++slot) {
        const size_t warm = (size_t(number * c.key_value_heads) + slot) * size_t(geometry.warm_blocks) + size_t(block);
        const size_t at = size_t(block * geometry.table_rows + geometry.key_row[size_t(number)]) + slot;
        head(cell(s.warm_up ? sequence.warm_ids[warm] : sequence.page_ids[at], position), ragged.cache, 1, heads.kept_keys[slot], normed,
             position);
      }
      for (size_t slot = 0; slot < heads.kept_values.size(); ++slot) {
        const size_t at = size_t(block * geometry.table_rows + geometry.value_row[size_t(number)]) + slot;
        head(cell(sequence.page_ids[at], position), ragged.cache, 2, heads.kept_values[slot], normed, position);
      }
    }
  }
};

/// Runs one layer of a step and checks it; returns the bits of what it wrote.
Outcome run(Fixture& f, const QkvLayer& layer, Ragged& ragged, int number, const std::vector<float>& x, int bucket = 0) {
  const Config& c = f.config;
  const StepLaunch step = ragged.launch(f, bucket);
  const Buffer<float> rows(x);
  const Buffer<uint16_t> queries(size_t(std::max(bucket, ragged.step.rows())) * size_t(pitch_of(c.query_width())));
  ragged.pool->poison();
  f.linear.rotary_tables(step);
  f.linear.qkv(step, Phase::warm_up, number, layer.weights, rows.get(), queries.get());
  f.linear.qkv(step, Phase::rest, number, layer.weights, rows.get(), queries.get());
  const Outcome got{queries.read(), ragged.pool->read()};
  Outcome left = got;
  Checker checker{f, layer, ragged, left, number};
  for (const Segment& segment : ragged.step.segments) checker.segment(segment, x.data());
  CHECK(checker.right);
  bool untouched = true;
  for (const uint16_t bits : left.queries) untouched &= bits == 0xffff;
  for (const unsigned char byte : left.pool) untouched &= byte == 0xff;
  CHECK(untouched);
  return got;
}

/// Sequences of all kinds in one step, page edges among their positions.
Ragged mixed_step(const Config& c, Element cache, const std::vector<int>& counts, bool warm) {
  Ragged ragged(c, cache, int(counts.size()), 460);
  const HeadKind kinds[] = {HeadKind::free, HeadKind::clustered, HeadKind::dense, HeadKind::shared_layers};
  const int positions[] = {62, 0, 127, 64, 63};
  for (int i = 0; i < int(counts.size()); ++i) {
    const bool this_warm = warm && i % 2 == 0;
    ragged.add_sequence(this_warm ? HeadKind::clustered : kinds[i % 4], this_warm);
    if (this_warm) ragged.add_segment(i, 2, std::min(6, counts[size_t(i)]), true);
    const int done = this_warm ? std::min(6, counts[size_t(i)]) : 0, position = this_warm ? 8 : positions[i % 5];
    if (counts[size_t(i)] > done) ragged.add_segment(i, position, counts[size_t(i)] - done, false);
  }
  return ragged;
}

void check_step(const Config& c, Element type, Element cache, const std::vector<int>& counts, bool warm, bool biased,
                Planned planned = {}) {
  int rows = 0;
  for (const int count : counts) rows += count;
  Fixture f(c, type, rows, planned);
  if (biased) f.widen_blocks();
  const QkvLayer layer(f, biased);
  Ragged ragged = mixed_step(c, cache, counts, warm);
  for (int number = 0; number < c.layers; ++number) run(f, layer, ragged, number, f.rows(rows, c.hidden));
}

Config layer_norm_config(Config c, NormPlacement placement) {
  c.norm = NormKind::layer, c.norm_placement = placement;
  return c;
}

/// The same warm-up row first alone, then among others, at other places: membership rests on its bits. A library may have the others.
void check_warm_bits(const Config& c, bool library) {
  Fixture f(c, Element::float16, 401, {0, library});
  const QkvLayer layer(f, true);
  const std::vector<float> others = f.rows(401, c.hidden), the_row = f.rows(1, c.hidden);
  std::vector<uint16_t> first;
  for (const int before : {0, 1, 4, 15, 40, 63, 69, 128, 390, 391}) {
    if (before == 391) f.widen_blocks();
    Ragged ragged(c, Element::float16, 2, 460);
    ragged.add_sequence(library ? HeadKind::dense : HeadKind::free, false);
    ragged.add_sequence(HeadKind::clustered, true);
    if (before) ragged.add_segment(0, 3, before, false);
    ragged.add_segment(1, 4, 1, true);
    if (before > 4) ragged.add_segment(0, 400, 9, false);
    std::vector<float> x(others.begin(), others.begin() + ragged.step.rows() * pitch_of(c.hidden));
    std::copy(the_row.begin(), the_row.end(), x.begin() + before * pitch_of(c.hidden));
    const Outcome got = run(f, layer, ragged, 1, x);
    const size_t pitch = size_t(pitch_of(c.query_width()));
    std::vector<uint16_t> bits(got.queries.begin() + std::ptrdiff_t(size_t(before) * pitch),
                               got.queries.begin() + std::ptrdiff_t(size_t(before + 1) * pitch));
    for (int head = 0; head < c.key_value_heads; ++head) {
      const int blocks = ragged.sequences[1].geometry->warm_blocks;
      const size_t page = size_t(ragged.sequences[1].warm_ids[size_t((c.key_value_heads + head) * blocks)]);
      const unsigned char* key = got.pool.data() + page * ragged.step.pool.page_bytes + 4 * ragged.step.pool.row_bytes;
      bits.resize(bits.size() + size_t(c.head_dim));
      std::memcpy(bits.data() + bits.size() - size_t(c.head_dim), key, size_t(c.head_dim) * 2);
    }
    if (first.empty()) first = bits;
    CHECK(bits == first);
  }
}

}  // namespace

TEST(cuda_qkv_few_rows) {
  for (const Element type : {Element::float16, Element::bfloat16})
    for (const auto& counts : {std::vector{1}, {1, 1}, {1, 1, 1}, {2, 1, 1}})
      check_step(odd_config(6, 3, 10, true), type, type, counts, false, true);
  check_step(odd_config(4, 4, 18, true), Element::float16, Element::bfloat16, {1, 1, 1}, false, false);
  check_step(odd_config(5, 1, 7, false), Element::bfloat16, Element::float16, {1, 1}, false, true);
  check_step(layer_norm_config(odd_config(4, 2, 8, true), NormPlacement::after), Element::float16, Element::float16, {1}, false, true);
  check_step(odd_config(3, 3, 128, true), Element::float16, Element::float16, {1, 1}, false, true);
}

TEST(cuda_qkv_small_batches) {
  for (const auto& counts : {std::vector{1}, {1, 1, 1}, {1, 4, 1, 2}})  // more heads than lanes
    check_step(odd_config(20, 20, 4, true), Element::float16, Element::float16, counts, false, true);
  for (const Element type : {Element::float16, Element::bfloat16}) {
    check_step(odd_config(6, 3, 10, true), type, type, {1, 1, 3, 1}, false, true);
    check_step(odd_config(4, 2, 64, true), type, type, {1, 9, 1, 1, 8}, false, false);
  }
  check_step(odd_config(4, 4, 18, true), Element::float16, Element::bfloat16, {30, 1, 1, 2, 7}, false, true);
  check_step(layer_norm_config(odd_config(5, 5, 7, false), NormPlacement::before), Element::bfloat16, Element::bfloat16, {20, 1}, false,
             true);
  check_step(odd_config(2, 1, 256, true), Element::float16, Element::float16, {5, 1}, false, true);
}

TEST(cuda_qkv_of_tiles_that_several_blocks_share) {
  Config c = odd_config(6, 3, 40, true);
  c.hidden = c.embedding = 700;
  for (const int processors : {3, 12, 50}) check_step(c, Element::float16, Element::float16, {1, 4, 1, 2}, false, true, {processors});
  check_step(c, Element::bfloat16, Element::bfloat16, {30, 1, 1, 38}, false, false, {30});
}

TEST(cuda_qkv_prefill) {
  check_step(odd_config(6, 3, 10, true), Element::float16, Element::float16, {130, 1, 60}, false, true);
  check_step(odd_config(8, 2, 80, true), Element::bfloat16, Element::bfloat16, {129, 1, 1}, false, false);
  check_step(layer_norm_config(odd_config(4, 4, 128, true), NormPlacement::before), Element::float16, Element::float16, {1, 200}, false,
             true);
  check_step(odd_config(4, 4, 18, true), Element::bfloat16, Element::float16, {66}, false, true);
}

TEST(cuda_qkv_warm_up_beside_other_rows) {
  check_step(odd_config(6, 3, 10, true), Element::float16, Element::float16, {1}, true, true);
  check_step(odd_config(6, 3, 10, true), Element::float16, Element::float16, {6, 1, 3}, true, true);
  check_step(odd_config(6, 6, 18, true), Element::bfloat16, Element::bfloat16, {40, 1, 30, 1, 80}, true, false);
  check_step(odd_config(4, 4, 64, true), Element::float16, Element::bfloat16, {140, 1, 8, 20}, true, true);
}

TEST(cuda_qkv_schedules) {
  for (uint64_t seed = 1; seed < 6; ++seed) {
    use_seed(seed);
    check_step(odd_config(6, 3, 10, true), Element::float16, Element::float16, {1, 1}, false, true);
    check_step(odd_config(6, 3, 18, true), Element::float16, Element::float16, {9, 1, 3}, true, true);
    check_step(odd_config(8, 2, 20, true), Element::bfloat16, Element::bfloat16, {130}, false, true);
  }
  use_seed(0);
}

TEST(cuda_qkv_one_query_head_for_several_score_slots) {
  const Config c = odd_config(4, 4, 10, true);
  for (const int count : {1, 9}) {
    Fixture f(c, Element::float16, count);
    const QkvLayer layer(f, true);
    Ragged ragged(c, Element::float16, 1, 64);
    ragged.add_sequence(HeadKind::dense, false);
    for (LayerHeads& heads : ragged.sequences[0].map) heads.query_of_score = {2, 1, 2, 2};
    std::vector<int32_t> tables;
    for (const LayerHeads& heads : ragged.sequences[0].map) {
      tables.resize(tables.size() + size_t(HeadTable(c).size()), -1);
      write_table(heads, c, tables.data() + tables.size() - size_t(HeadTable(c).size()));
    }
    ragged.sequences[0].tables->write(tables);
    ragged.add_segment(0, 7, count, false);
    run(f, layer, ragged, 0, f.rows(count, c.hidden));
  }
}

TEST(cuda_qkv_rows_beyond_the_step_are_left_alone) {
  const Config c = odd_config(6, 3, 10, true);
  for (const int bucket : {4, 8, 64}) {
    Fixture f(c, Element::float16, bucket);
    const QkvLayer layer(f, true);
    Ragged ragged = mixed_step(c, Element::float16, {1, 1, 1}, false);
    run(f, layer, ragged, 1, f.rows(bucket, c.hidden), bucket);
  }
}

/// Most heads through the library; rows of warm-up segments, short runs between them and layers of few heads through our own kernels.
TEST(cuda_qkv_by_a_library) {
  const int before = library_calls();
  check_step(odd_config(6, 3, 10, true), Element::float16, Element::float16, {400, 1, 8, 390}, true, true, {0, true});
  check_step(odd_config(8, 2, 20, true), Element::bfloat16, Element::float16, {1, 1, 257}, false, true, {0, true});
  check_step(layer_norm_config(odd_config(5, 5, 7, false), NormPlacement::after), Element::float16, Element::float16, {100, 1, 200}, false,
             false, {0, true});
  CHECK(library_calls() > before || !library_is_counted());
}

TEST(cuda_qkv_bits_of_a_warm_up_row_depend_on_nothing_but_the_row) {
  const Config c = odd_config(6, 3, 24, true);
  check_warm_bits(c, false);
  const int calls = library_calls();
  check_warm_bits(c, true);
  CHECK(library_calls() == calls + 6 || !library_is_counted());
}

}  // namespace chai::cuda
