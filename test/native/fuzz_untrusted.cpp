// Fuzzing of what comes out of untrusted files: shapes, tensor tables, head plans. In: bytes of libFuzzer, which spoil a sound model and
// plan. Out: a crash wherever the engine does more than refuse. Needs clang: cmake -DCHAI_FUZZ=ON -DCHAI_ADDON=OFF -DWITH_CUDA=OFF, target
// fuzz_untrusted; run `fuzz_untrusted -max_len=200 -max_total_time=600 CORPUS_FOLDER`.
#include <iterator>

#include "engine_calls.h"
#include "tiny_model.h"

namespace chai {
namespace {

struct Bytes {
  const uint8_t* at;
  size_t left;

  int next() { return left > 0 ? (--left, *at++) : 0; }
  /// Mostly small, now and then anything.
  int64_t number() {
    const int kind = next();
    if (kind < 240) return kind % 12;
    uint64_t value = 0;
    for (int i = 0; i < 8; ++i) value = value << 8 | uint64_t(next());
    return int64_t(value) >> (kind % 4 * 16);
  }
  template <class List>
  auto& any(List& list) {
    return list[size_t(next()) % std::size(list)];
  }
};

void spoil(LoadOptions& options, Bytes& bytes) {
  Config& c = options.config;
  int* const sizes[] = {&c.layers,          &c.heads,           &c.key_value_heads, &c.head_dim,     &c.hidden,
                        &c.embedding,       &c.intermediate,    &c.vocabulary,      &c.context,      &c.sliding_window,
                        &c.position_offset, &options.max_batch, &options.max_rows,  &options.threads};
  LayerTensors& l = bytes.any(options.layers);
  FileTensor* const tensors[] = {&options.token_embedding,
                                 &options.position_embedding,
                                 &options.embedding_projection,
                                 &options.output_projection,
                                 &options.final_norm,
                                 &options.output,
                                 &l.attention_norm,
                                 &l.query,
                                 &l.key,
                                 &l.value,
                                 &l.query_bias,
                                 &l.attention_output,
                                 &l.feed_forward_norm,
                                 &l.gate,
                                 &l.up,
                                 &l.down,
                                 &l.down_bias};
  FileTensor& tensor = *bytes.any(tensors);
  switch (bytes.next() % 7) {
    case 0: *bytes.any(sizes) = int(bytes.number()); break;
    case 1:
      tensor = *bytes.any(tensors);
      if (bytes.next() % 2) tensor.rows = tensor.columns = c.hidden;
      break;
    case 2: tensor.offset = uint64_t(bytes.number()); break;
    case 3: tensor.rows = bytes.next() % 2 ? bytes.number() : c.hidden; break;
    case 4: tensor.columns = bytes.next() % 2 ? bytes.number() : c.hidden; break;
    case 5: tensor.file = int(bytes.number()); break;
    case 6: tensor.type = Element(bytes.next() % 3), options.mmap = !options.mmap; break;
  }
}

void spoil(HeadPlan& plan, Bytes& bytes) {
  PlanLayer& layer = bytes.any(plan.layers);
  LayerHeads& heads = layer.heads;
  int* const numbers[] = {&plan.warmup_start,      &plan.warmup_tokens,   &layer.rule.clusters,
                          &layer.rule.head_groups, &layer.rule.key_heads, &heads.scores_from};
  std::vector<int>* const lists[] = {&heads.score_of_query, &heads.query_of_score, &heads.key_of_score,
                                     &heads.kept_keys,      &heads.value_of_query, &heads.kept_values};
  std::vector<int>& list = *bytes.any(lists);
  switch (bytes.next() % 5) {
    case 0: *bytes.any(numbers) = int(bytes.number()); break;
    case 1: plan.method = Method(bytes.next() % 4); break;
    case 2: layer.rule.method = Clustering(bytes.next() % 2); break;
    case 3: list.resize(size_t(bytes.next() % 9), int(bytes.number())); break;
    case 4: list.empty() ? list.push_back(0) : void(bytes.any(list) = int(bytes.number())); break;
  }
}

void run(Bytes bytes) {
  static const TinyModel model(tiny_config(2, 4, 2, 8));
  LoadOptions options = model.options;
  options.threads = 1;
  for (int i = bytes.next() % 4; i > 0; --i) spoil(options, bytes);
  if (options.threads > 4 || options.max_rows > 512) return;  // allowed, but slow
  const auto engine = Engine::load(options, {});
  HeadPlan plan = chai_plan(options.config, std::vector<int>(size_t(options.config.layers), 1 + bytes.next() % 4));
  for (int i = 0; i < options.config.layers; ++i) plan.layers[size_t(i)].heads = identity_heads(options.config, i);
  for (int i = bytes.next() % 6; i > 0; --i) spoil(plan, bytes);
  const auto session = engine->open(plan);
  logits_of(*session, some_ids(1 + bytes.next() % 80, 1, options.config.vocabulary));
  logits_of(*session->fork(), {0});
}

}  // namespace
}  // namespace chai

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    chai::run({data, size});
  } catch (const chai::Error&) {  // refused: as it should be
  }
  return 0;
}
