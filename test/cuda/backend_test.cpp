// Whole tiny models through the CUDA backend: logits, memberships and greedy text against the CPU backend, recorded steps against eager
// ones, memory given back. Runs under the SIMT shim, and unchanged on a device.
#include <algorithm>
#include <cmath>

#include "check.h"
#include "cuda_backend.h"
#include "cuda_test.h"
#include "engine_calls.h"
#include "gpu.h"
#include "tiny_model.h"

namespace chai {
namespace {

/// The same weights on both backends; the cache in float16 on both.
struct Pair {
  std::shared_ptr<Engine> cpu, cuda;
  cuda::CudaBackend* backend = nullptr;

  explicit Pair(TinyModel& model, Element compute = Element::float16, bool graphs = true, int steps_in_flight = 2) {
    model.options.cache_type = compute;
    cpu = Engine::load(model.options, {});
    CudaOptions options;
    options.compute = compute, options.graphs = graphs, options.steps_in_flight = steps_in_flight;
    auto made = make_cuda_backend(options);
    backend = static_cast<cuda::CudaBackend*>(made.get());
    cuda = Engine::load(model.options, {}, std::move(made));
  }
};

std::vector<int32_t> greedy(Session& session, std::vector<int32_t> ids, int count) {
  std::vector<int32_t> out;
  for (int i = 0; i < count; ++i) {
    const auto logits = logits_of(session, ids);
    const float* last = logits.data() + logits.size() - 97;
    ids = {int32_t(std::max_element(last, last + 97) - last)};
    out.push_back(ids[0]);
  }
  return out;
}

/// Generations that begin in one and the same step: the engine is held in a callback until all of them are submitted.
std::vector<std::vector<int32_t>> together(const std::vector<std::shared_ptr<Session>>& sessions, std::vector<std::vector<int32_t>> prompts,
                                           std::vector<GenerateOptions> options, Session& bystander) {
  std::promise<void> held, submitted, evaluated;
  const auto job = bystander.evaluate({1}, EvaluateResult::none, [&](EvaluateOutcome) {
    held.set_value();
    submitted.get_future().wait();
    evaluated.set_value();
  });
  held.get_future().wait();
  std::vector<Puller> pullers(sessions.size());
  for (size_t i = 0; i < sessions.size(); ++i) pullers[i].start(*sessions[i], prompts[i], options[i]);
  submitted.set_value();
  evaluated.get_future().wait();
  std::vector<std::vector<int32_t>> texts;
  for (Puller& puller : pullers) texts.push_back(puller.all());
  return texts;
}

/// Scores flatter than the random weights would give: a trained model does not amplify rounding as they do.
void agree(Config config, const HeadPlan& plan, int tokens, Element compute = Element::float16) {
  config.attention_scale *= 0.25f;
  const double limit = compute == Element::bfloat16 ? 4e-2 : 1e-2;  // bfloat16 has an eighth of float16's digits
  TinyModel model(config, 7);
  Pair pair(model, compute);
  const auto ids = some_ids(tokens, 3);
  const auto cpu = pair.cpu->open(plan), cuda = pair.cuda->open(plan);
  const auto expected = logits_of(*cpu, ids), got = logits_of(*cuda, ids);
  if (tokens >= plan.warmup_end()) CHECK(cpu->head_maps() == cuda->head_maps());
  CHECK(distance(got, expected) < limit);
  // ... and a few more tokens, one at a time, on top of the cache
  CHECK(distance(logits_of(*cuda, {5}), logits_of(*cpu, {5})) < limit);
  CHECK(distance(logits_of(*cuda, {6, 7, 8}), logits_of(*cpu, {6, 7, 8})) < limit);
}

}  // namespace

TEST(cuda_backend_dense_models_agree_with_the_cpu) {
  for (const int tokens : {1, 2, 9, 64, 150}) agree(tiny_config(), dense_plan(tiny_config()), tokens);
  const Config grouped = tiny_config(2, 8, 2, 16);
  for (const int tokens : {1, 70}) agree(grouped, dense_plan(grouped), tokens, Element::bfloat16);
  Config window = tiny_config(2, 4, 4, 32);
  window.sliding_window = 20;
  agree(window, dense_plan(window), 90);
}

TEST(cuda_backend_clustered_models_agree_with_the_cpu) {
  const Config config = tiny_config();
  for (const int tokens : {3, 4, 5, 6, 40, 130}) agree(config, chai_plan(config, {2, 5, 8}), tokens);
  agree(config, chai_plan(config, {1, 3, 4}, 60, 9), 120);
  const Config grouped = tiny_config(2, 8, 4, 16);
  agree(grouped, chai_plan(grouped, {3, 6}), 80);
}

/// What a calibration asks of a backend.
TEST(cuda_backend_warm_up_features_agree_with_the_cpu) {
  Config config = tiny_config();
  config.attention_scale *= 0.25f;
  for (const int start : {0, 7}) {
    TinyModel model(config, 7);
    Pair pair(model);
    const HeadPlan plan = chai_plan(config, {2, 5, 8}, start, 100);
    const std::vector<int> rows{1, 5, 40, 99};
    std::vector<std::vector<double>> found;
    for (const auto& engine : {pair.cpu, pair.cuda}) {
      const auto session = engine->open(plan);
      logits_of(*session, some_ids(50, 3));
      logits_of(*session, some_ids(49 + start, 4));
      found.push_back(session->head_gram(rows));
    }
    CHECK(found[0].size() == rows.size() * size_t(config.layers * config.heads * config.heads));
    double largest = 0;
    for (size_t i = 0; i < found[0].size(); ++i) largest = std::max(largest, std::abs(found[1][i] - found[0][i]) / std::abs(found[0][i]));
    CHECK(largest < 1e-2);
  }
}

TEST(cuda_backend_models_of_odd_sizes_agree_with_the_cpu) {
  Config config = tiny_config(2, 3, 3, 18);
  config.hidden = config.embedding = 36, config.intermediate = 50;
  agree(config, dense_plan(config), 70);
  agree(config, chai_plan(config, {2, 1}), 70);
}

TEST(cuda_backend_plain_feed_forward_and_layer_norms_agree_with_the_cpu) {
  for (const NormPlacement placement : {NormPlacement::before, NormPlacement::after}) {
    Config config = tiny_config(2);
    config.norm = NormKind::layer, config.norm_placement = placement;
    config.gated = false, config.activation = Activation::relu;
    agree(config, dense_plan(config), 30);
  }
}

TEST(cuda_backend_every_head_its_own_cluster_equals_dense) {
  TinyModel model(tiny_config());
  Pair pair(model);
  const auto ids = some_ids(100, 3);
  const auto dense = logits_of(*pair.cuda->open(dense_plan(model.options.config)), ids);
  CHECK(distance(logits_of(*pair.cuda->open(chai_plan(model.options.config, {8, 8, 8})), ids), dense) < 1e-3);
}

TEST(cuda_backend_recorded_steps_equal_eager_ones) {
  TinyModel model(tiny_config());
  const HeadPlan plan = chai_plan(model.options.config, {3, 4, 2});
  GenerateOptions random = greedy(40);
  random.sampling.temperature = 0.9f, random.sampling.seed = 11, random.sampling.repetition_penalty = 1.2f;
  std::vector<std::vector<int32_t>> texts[2];
  for (const bool graphs : {false, true}) {
    Pair pair(model, Element::float16, graphs);
    for (const auto& options : {greedy(10), random, greedy(10)})  // greedy steps launch fewer kernels
      texts[graphs].push_back(generated(*pair.cuda->open(plan), some_ids(20, 5), options));
    CHECK((pair.backend->replays() > 40) == graphs);
  }
  CHECK(texts[0][1].size() == 40);
  CHECK(texts[0] == texts[1]);
}

TEST(cuda_backend_a_plan_that_shares_scores_joins_recorded_steps) {
  const Config config = tiny_config();
  HeadPlan plan = dense_plan(config);
  plan.method = Method::explicit_map;
  LayerHeads& last = plan.layers[2].heads;  // its scores are those of the first layer, whose queries need a buffer from now on
  last.scores_from = 0;
  last.query_of_score.clear(), last.key_of_score.clear(), last.kept_keys.clear();
  TinyModel model(config, 4);
  for (const int before : {1, 2, 3}) {  // then the next step of one row would be recorded, or replayed
    Pair pair(model);
    const auto dense = pair.cuda->open(dense_plan(config));
    for (int i = 0; i <= before; ++i) logits_of(*dense, i == 0 ? some_ids(4, 1) : std::vector<int32_t>{i});
    const auto cpu = pair.cpu->open(plan), cuda = pair.cuda->open(plan);
    for (const int id : {5, 6, 7, 8}) CHECK(distance(logits_of(*cuda, {id}), logits_of(*cpu, {id})) < 1e-2);
    CHECK(pair.backend->replays() > 0 && pair.backend->why_not_recorded().empty());
  }
}

#if __has_include("simt_fiber.h")
/// Every recording breaks off half-way, as a driver may end it.
class BrokenOff final : public cuda::CudaBackend {
 public:
  using CudaBackend::CudaBackend;
  void feed_forward(const Step& step, const LayerWeights& weights, Rows& x) override {
    if (simt::recording()) cuda::free_graph(cuda::end_capture(nullptr));
    CudaBackend::feed_forward(step, weights, x);
  }
};

TEST(cuda_backend_goes_on_without_recording_where_that_fails) {
  TinyModel model(tiny_config(), 5);
  model.options.cache_type = Element::float16;
  auto made = std::make_unique<BrokenOff>(CudaOptions{}, cuda::test_device());
  const BrokenOff& broken = *made;
  const auto engine = Engine::load(model.options, {}, std::move(made));
  Pair pair(model);
  const HeadPlan plan = chai_plan(model.options.config, {3, 4, 2});
  const auto expected = generated(*pair.cuda->open(plan), some_ids(30, 9), greedy(24));
  CHECK(expected.size() == 24 && pair.backend->replays() > 10);
  CHECK(generated(*engine->open(plan), some_ids(30, 9), greedy(24)) == expected);
  CHECK(broken.replays() == 0 && !broken.why_not_recorded().empty());
}
#endif

TEST(cuda_backend_steps_in_flight_give_the_same_text) {
  Config config = tiny_config(2);
  config.attention_scale *= 0.25f;
  TinyModel model(config, 5);
  const HeadPlan plan = chai_plan(config, {3, 4});
  const auto prompt = some_ids(58, 9);  // the text goes on in a second page
  GenerateOptions plain = greedy(10), random = greedy(10), penalised;
  random.sampling.temperature = 0.9f, random.sampling.seed = 3;
  penalised = random, penalised.sampling.repetition_penalty = 1.2f;
  std::vector<std::vector<int32_t>> expected;
  for (const int depth : {1, 2, 4}) {
    const cuda::LateDevice late(depth != 2);
    Pair pair(model, Element::float16, true, depth);
    std::vector<std::vector<int32_t>> texts;
    for (const auto& options : {penalised, plain, random}) {
      texts.push_back(generated(*pair.cuda->open(plan), prompt, options));
      CHECK(ran_ahead(pair.backend->most_in_flight(), texts.size() == 1 ? 1 : depth));
    }
    if (depth == 1) expected = texts;
    CHECK(texts == expected);
    CHECK(texts[1] == generated(*pair.cpu->open(plan), prompt, plain));
    CHECK(pair.backend->replays() > 20);
  }
}

TEST(cuda_backend_batches_in_flight_shrink_alike) {
  TinyModel model(tiny_config(2), 6);
  const HeadPlan plan = chai_plan(model.options.config, {3, 4});
  std::vector<std::vector<std::vector<int32_t>>> expected;  // [rounds][sessions]
  std::vector<std::vector<float>> expected_next;            // [sessions]
  std::vector<int32_t> stops;
  for (const int depth : {0, 1, 2, 4}) {  // 0: finds tokens to stop at
    const cuda::LateDevice late(depth != 2);
    Pair pair(model, Element::float16, true, depth);
    const auto bystander = pair.cuda->open(dense_plan(model.options.config));
    std::vector<std::shared_ptr<Session>> sessions;
    std::vector<GenerateOptions> options;
    std::vector<std::vector<int32_t>> prompts;
    for (int i = 0; i < 3; ++i) {
      sessions.push_back(pair.cuda->open(plan));
      options.push_back(greedy(4 - i));  // never more than the queue holds: no reader decides who pauses
      options.back().sampling.temperature = 0.8f, options.back().sampling.seed = unsigned(i);
      if (i == 0) options.back().stop_tokens = stops;
      prompts.push_back(some_ids(6 + 5 * i, unsigned(i)));
    }
    std::vector<std::vector<std::vector<int32_t>>> rounds;
    for (int round = 0; round < 3; ++round) {
      rounds.push_back(together(sessions, prompts, options, *bystander));
      prompts = {{5}, {}, {}};  // two go on from their last token
    }
    if (stops.empty()) {
      stops = {rounds[1][0][1]};
      continue;
    }
    std::vector<std::vector<float>> next;
    for (const auto& session : sessions) next.push_back(logits_of(*session, {5}));
    if (depth == 1) {
      expected = rounds, expected_next = next;
      CHECK(rounds[1][0].size() == 1);
    }
    CHECK(rounds == expected);
    CHECK(next == expected_next);
    CHECK(pair.backend->most_in_flight() == depth);
    CHECK(pair.backend->replays() > 3);
  }
}

TEST(cuda_backend_greedy_text_equals_the_cpu) {
  TinyModel model(tiny_config(), 5);
  Pair pair(model);
  const HeadPlan plan = chai_plan(model.options.config, {3, 4, 2});
  GenerateOptions options;
  options.max_tokens = 24;
  const auto text = generated(*pair.cuda->open(plan), some_ids(30, 9), options);
  CHECK(text == generated(*pair.cpu->open(plan), some_ids(30, 9), options));
  CHECK(text == greedy(*pair.cuda->open(plan), some_ids(30, 9), 24));
}

TEST(cuda_backend_memory_is_refused_in_words_and_given_back) {
  uint64_t free_before = 0, total = 0;
  for (const bool first : {true, false}) {  // what kernels and libraries take at their first use stays with the process
    if (!first) cuda::memory_of_device(free_before, total);
    TinyModel model(tiny_config());
    Pair pair(model);
    logits_of(*pair.cuda->open(dense_plan(model.options.config)), some_ids(20, 1));
    TinyModel greedy_model(tiny_config());
    greedy_model.options.cache_tokens = int64_t{1} << 33;
    greedy_model.options.cache_type = Element::float16;
    try {
      Engine::load(greedy_model.options, {}, make_cuda_backend({}));
      CHECK(false);
    } catch (const Error& error) {
      CHECK(error.code == Code::out_of_memory || error.code == Code::option_invalid);
    }
  }
  uint64_t free_after = 0;
  cuda::memory_of_device(free_after, total);
  CHECK(free_after + (1 << 20) >= free_before);
}

TEST(cuda_backend_float32_caches_are_refused) {
  TinyModel model(tiny_config());
  model.options.device = "cuda:0";
  try {
    Engine::load(model.options, {});
    CHECK(false);
  } catch (const Error& error) {
    CHECK(error.code == Code::option_invalid);
  }
}

}  // namespace chai
