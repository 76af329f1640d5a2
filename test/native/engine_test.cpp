// The engine end to end on a tiny random model: bits that must not depend on batching, roll-backs, limits, and calls out of order.
#include "engine.h"

#include <atomic>
#include <chrono>

#include "check.h"
#include "engine_calls.h"
#include "reference_backend.h"
#include "tiny_model.h"

namespace chai {
namespace {

/// Has no more memory for new sequences once it is told so.
class ExhaustedBackend : public ReferenceBackend {
 public:
  std::shared_ptr<std::atomic<bool>> exhausted = std::make_shared<std::atomic<bool>>(false);
  std::function<void()> on_begin = [] {}, on_refusal = [] {};
  Memory allocate(size_t bytes, const char* what) override {
    if (*exhausted && std::string(what) == "head tables") {
      on_refusal();
      throw Error(Code::out_of_memory, "none left");
    }
    return ReferenceBackend::allocate(bytes, what);
  }
  void begin(const Step& step) override {
    on_begin();
    ReferenceBackend::begin(step);
  }
};

}  // namespace

TEST(every_head_its_own_cluster_equals_dense_bit_for_bit) {
  TinyModel model(tiny_config());
  const auto engine = Engine::load(model.options, {});
  const auto ids = some_ids(150, 3);
  const auto dense = logits_of(*engine->open(dense_plan(model.options.config)), ids);
  for (const int start : {0, 3, 90}) CHECK(logits_of(*engine->open(chai_plan(model.options.config, {8, 8, 8}, start)), ids) == dense);
}

TEST(clusters_change_the_logits_of_later_tokens_only) {
  TinyModel model(tiny_config());
  const auto engine = Engine::load(model.options, {});
  const auto ids = some_ids(40, 4);
  const auto dense = logits_of(*engine->open(dense_plan(model.options.config)), ids);
  const auto session = engine->open(chai_plan(model.options.config, {2, 1, 3}));
  CHECK(!session->head_maps());
  const auto shared = logits_of(*session, ids);
  CHECK(session->head_maps().has_value());
  CHECK(std::equal(dense.begin(), dense.begin() + 5 * 97, shared.begin()));
  CHECK(!std::equal(dense.begin() + 5 * 97, dense.end(), shared.begin() + 5 * 97));
  const CacheBytes bytes = session->cache_bytes();
  CHECK(bytes.keys * 24 == bytes.dense_keys * 6 && bytes.values == bytes.dense_values);
}

TEST(chunks_equal_one_shot_bit_for_bit) {
  for (const int key_value_heads : {8, 2}) {
    TinyModel model(tiny_config(3, 8, key_value_heads));
    const auto engine = Engine::load(model.options, {});
    model.options.max_rows = 16;
    const auto narrow = Engine::load(model.options, {});
    const auto ids = some_ids(200, 5);
    for (const bool clustered : {false, true}) {
      const HeadPlan plan = clustered ? chai_plan(model.options.config, {3, 5, 1}, 2, 6) : dense_plan(model.options.config);
      const auto whole = logits_of(*engine->open(plan), ids);
      CHECK(logits_of(*narrow->open(plan), ids) == whole);
      const auto session = engine->open(plan);
      std::vector<float> parts;
      for (size_t at = 0, size = 1; at < ids.size(); at += size, size = size * 2 + 1) {
        const size_t end = std::min(ids.size(), at + size);
        const auto part = logits_of(*session, {ids.begin() + at, ids.begin() + end});
        parts.insert(parts.end(), part.begin(), part.end());
      }
      CHECK(parts == whole);
    }
  }
}

TEST(a_batch_of_sequences_equals_each_alone) {
  TinyModel model(tiny_config());
  const auto engine = Engine::load(model.options, {});
  const HeadPlan plan = chai_plan(model.options.config, {2, 4, 1});
  std::vector<std::vector<int32_t>> alone;
  for (int i = 0; i < 20; ++i) {
    Puller puller;
    const auto session = engine->open(i % 3 == 0 ? dense_plan(model.options.config) : plan);
    puller.start(*session, some_ids(1 + 7 * i, 100 + i), greedy(30));
    alone.push_back(puller.all());
    CHECK(alone.back().size() == 30);
  }
  std::vector<std::shared_ptr<Session>> sessions;
  std::vector<Puller> pullers(20);
  for (int i = 0; i < 20; ++i) {
    sessions.push_back(engine->open(i % 3 == 0 ? dense_plan(model.options.config) : plan));
    pullers[i].start(*sessions[i], some_ids(1 + 7 * i, 100 + i), greedy(30));
  }
  std::vector<std::future<std::vector<int32_t>>> together;
  for (auto& puller : pullers) together.push_back(std::async(std::launch::async, [&puller] { return puller.all(); }));
  for (int i = 0; i < 20; ++i) CHECK(together[i].get() == alone[i]);
  CHECK(engine->stats().largest_batch > 4);
}

TEST(generation_equals_step_by_step_argmax) {
  TinyModel model(tiny_config());
  const auto engine = Engine::load(model.options, {});
  const HeadPlan plan = chai_plan(model.options.config, {2, 4, 1});
  auto ids = some_ids(3, 8);  // shorter than the warm-up: membership is found while decoding
  Puller puller;
  const auto session = engine->open(plan);
  puller.start(*session, ids, greedy(20));
  const auto generated = puller.all();
  for (const int32_t id : generated) {
    const auto logits = logits_of(*engine->open(plan), ids);
    const auto last = logits.end() - 97;
    CHECK(std::max_element(last, logits.end()) - last == id);
    ids.push_back(id);
  }
  CHECK(session->tokens() == ids);
}

TEST(stop_rolls_back_to_what_was_delivered) {
  TinyModel model(tiny_config());
  const auto engine = Engine::load(model.options, {});
  const HeadPlan plan = chai_plan(model.options.config, {2, 4, 1});
  const auto prompt = some_ids(20, 9), more = some_ids(10, 10);
  const auto session = engine->open(plan), other = engine->open(plan);
  Puller puller;
  puller.start(*session, prompt, greedy(200));
  std::vector<int32_t> taken;
  while (taken.size() < 7) {
    const auto batch = puller.next();
    taken.insert(taken.end(), batch.ids.begin(), batch.ids.end());
  }
  puller.stop(6);
  taken.resize(6);
  auto expected = prompt;
  expected.insert(expected.end(), taken.begin(), taken.end());
  CHECK(session->tokens() == expected);
  puller.stop(6);  // idempotent
  expected.insert(expected.end(), more.begin(), more.end());
  const auto all = logits_of(*other, expected);
  const auto rest = logits_of(*session, more);
  CHECK(std::equal(rest.begin(), rest.end(), all.end() - long(rest.size())));
}

TEST(truncate_and_fork_continue_as_if_never_left) {
  TinyModel model(tiny_config());
  const auto engine = Engine::load(model.options, {});
  for (const bool clustered : {false, true}) {
    const HeadPlan plan = clustered ? chai_plan(model.options.config, {2, 4, 1}) : dense_plan(model.options.config);
    const auto ids = some_ids(150, 11), tail = some_ids(30, 12);
    const auto session = engine->open(plan);
    logits_of(*session, ids);
    const auto twin = session->fork();
    session->truncate(70);
    auto shorter = ids;
    shorter.resize(70);
    CHECK(session->tokens() == shorter && twin->tokens() == ids);
    const auto after = logits_of(*session, tail), after_twin = logits_of(*twin, tail);
    shorter.insert(shorter.end(), tail.begin(), tail.end());
    auto longer = ids;
    longer.insert(longer.end(), tail.begin(), tail.end());
    const auto whole = logits_of(*engine->open(plan), shorter), whole_twin = logits_of(*engine->open(plan), longer);
    CHECK(std::equal(after.begin(), after.end(), whole.end() - long(after.size())));
    CHECK(std::equal(after_twin.begin(), after_twin.end(), whole_twin.end() - long(after_twin.size())));
    session->truncate(0);
    CHECK(logits_of(*session, tail) == logits_of(*engine->open(plan), tail));
    CHECK(code_of([&] { session->truncate(31); }) == Code::option_invalid);
    CHECK(code_of([&] { session->truncate(-1); }) == Code::option_invalid);
    if (clustered) CHECK(code_of([&] { session->truncate(4); }) == Code::option_invalid);
  }
}

TEST(scores_are_log_probabilities_of_the_given_tokens) {
  TinyModel model(tiny_config());
  const auto engine = Engine::load(model.options, {});
  const HeadPlan plan = chai_plan(model.options.config, {2, 4, 1});
  const auto ids = some_ids(60, 13);
  const auto logits = logits_of(*engine->open(plan), ids);
  for (const size_t cut : {size_t{1}, size_t{5}, size_t{6}, size_t{33}}) {
    const auto session = engine->open(plan);
    auto first = wait_for(*session, {ids.begin(), ids.begin() + cut}, EvaluateResult::score).values;
    const auto second = wait_for(*session, {ids.begin() + cut, ids.end()}, EvaluateResult::score).values;
    first.insert(first.end(), second.begin(), second.end());
    CHECK(first.size() == 60 && std::isnan(first[0]));
    for (size_t i = 1; i < 60; ++i) {
      double sum = 0;
      for (int v = 0; v < 97; ++v) sum += std::exp(double(logits[(i - 1) * 97 + v]));
      CHECK(std::abs(first[i] - (logits[(i - 1) * 97 + ids[i]] - std::log(sum))) < 1e-5);
    }
  }
}

TEST(a_full_cache_fails_one_request_and_serves_the_others) {
  TinyModel model(tiny_config());
  model.options.cache_tokens = 256;
  const auto engine = Engine::load(model.options, {});
  const auto holder = engine->open(dense_plan(model.options.config));
  logits_of(*holder, some_ids(190, 14));
  const auto session = engine->open(dense_plan(model.options.config));
  const auto outcome = wait_for(*session, some_ids(100, 15), EvaluateResult::last);
  CHECK(outcome.error != nullptr);
  CHECK(code_of([&] { std::rethrow_exception(outcome.error); }) == Code::out_of_memory);
  CHECK(session->tokens().empty());
  CHECK(!wait_for(*session, some_ids(64, 15), EvaluateResult::last).error);
  CHECK(!wait_for(*holder, some_ids(1, 16), EvaluateResult::last).error);
}

TEST(calls_out_of_order_get_typed_errors) {
  TinyModel model(tiny_config());
  const auto engine = Engine::load(model.options, {});
  const auto session = engine->open(dense_plan(model.options.config));
  CHECK(code_of([&] { wait_for(*session, {}, EvaluateResult::all); }) == Code::option_invalid);
  CHECK(code_of([&] { wait_for(*session, {97}, EvaluateResult::all); }) == Code::option_invalid);
  CHECK(code_of([&] { wait_for(*session, {-1}, EvaluateResult::all); }) == Code::option_invalid);
  CHECK(code_of([&] { wait_for(*session, some_ids(513, 1), EvaluateResult::all); }) == Code::context_overflow);
  CHECK(code_of([&] { session->generate({}, greedy(3), [] {}); }) == Code::option_invalid);
  CHECK(code_of([&] { session->generate(some_ids(512, 1), greedy(3), [] {}); }) == Code::context_overflow);
  Puller puller;
  puller.start(*session, some_ids(5, 1), greedy(500));
  CHECK(code_of([&] { session->truncate(0); }) == Code::session_busy);
  CHECK(code_of([&] { session->fork(); }) == Code::session_busy);
  CHECK(code_of([&] { session->generate({1}, greedy(3), [] {}); }) == Code::session_busy);
  std::promise<void> closed;
  session->close([&] { closed.set_value(); });
  closed.get_future().wait();
  CHECK(code_of([&] { puller.all(); }) == Code::closed);
  CHECK(code_of([&] { session->tokens(); }) == Code::closed);
  engine->close();
  engine->close();
  CHECK(code_of([&] { engine->open(dense_plan(model.options.config)); }) == Code::closed);
}

TEST(closing_the_engine_ends_running_work) {
  TinyModel model(tiny_config());
  for (int round = 0; round < 5; ++round) {
    const auto engine = Engine::load(model.options, {});
    std::vector<std::shared_ptr<Session>> sessions;
    std::vector<Puller> pullers(6);
    for (auto& puller : pullers) {
      sessions.push_back(engine->open(chai_plan(model.options.config, {2, 4, 1})));
      puller.start(*sessions.back(), some_ids(50, 20), greedy(400));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(round * 3));
    engine->close();
    for (auto& puller : pullers) CHECK(code_of([&] { puller.all(); }) == Code::closed);
  }
}

TEST(a_cancelled_evaluation_leaves_the_session_as_it_was) {
  TinyModel model(tiny_config());
  model.options.max_rows = 16;
  const auto engine = Engine::load(model.options, {});
  const HeadPlan plan = chai_plan(model.options.config, {2, 4, 1});
  const auto session = engine->open(plan);
  const auto head = some_ids(3, 21), tail = some_ids(40, 22);
  logits_of(*session, head);
  std::promise<EvaluateOutcome> promise;
  const auto job = session->evaluate(some_ids(400, 23), EvaluateResult::all, [&](EvaluateOutcome o) { promise.set_value(std::move(o)); });
  job->cancel();
  const auto outcome = promise.get_future().get();
  CHECK(!outcome.error || code_of([&] { std::rethrow_exception(outcome.error); }) == Code::aborted);
  if (!outcome.error) return;  // it was faster than we
  CHECK(session->tokens() == head);
  auto whole = head;
  whole.insert(whole.end(), tail.begin(), tail.end());
  const auto expected = logits_of(*engine->open(plan), whole), got = logits_of(*session, tail);
  CHECK(std::equal(got.begin(), got.end(), expected.end() - long(got.size())));
}

TEST(loading_refuses_what_does_not_fit) {
  TinyModel model(tiny_config());
  auto bad = model.options;
  bad.layers[1].query.columns = 47;
  CHECK(code_of([&] { Engine::load(bad, {}); }) == Code::model_invalid);
  bad = model.options;
  bad.output.offset = 1u << 30;
  CHECK(code_of([&] { Engine::load(bad, {}); }) == Code::model_invalid);
  bad = model.options;
  bad.output.file = -1;
  CHECK(code_of([&] { Engine::load(bad, {}); }) == Code::model_invalid);
  bad = model.options;
  bad.embedding_projection = bad.layers[0].query;
  bad.embedding_projection.rows = bad.embedding_projection.columns = 48;  // from the embedding's width to the same one
  CHECK(code_of([&] { Engine::load(bad, {}); }) == Code::model_invalid);
  bad = model.options;
  bad.output_projection = bad.layers[0].query;
  bad.output_projection.rows = 48;
  CHECK(code_of([&] { Engine::load(bad, {}); }) == Code::model_invalid);
  bad = model.options;
  bad.files = {"/nowhere/model.safetensors"};
  CHECK(code_of([&] { Engine::load(bad, {}); }) == Code::model_not_found);
  bad = model.options;
  bad.device = "gpu";
  CHECK(code_of([&] { Engine::load(bad, {}); }) == Code::device_unavailable);
  CHECK(code_of([&] { Engine::load(model.options, [](uint64_t, uint64_t) { return false; }); }) == Code::aborted);
  bad = model.options;
  bad.cache_tokens = int64_t{1} << 50;
  CHECK(code_of([&] { Engine::load(bad, {}); }) != Code::device_fault);
}

TEST(a_sequence_that_finds_no_device_memory_fails_alone) {
  TinyModel model(tiny_config());
  const HeadPlan plan = chai_plan(model.options.config, {3, 4, 2});
  auto backend = std::make_unique<ExhaustedBackend>();
  const auto exhausted = backend->exhausted;
  const auto engine = Engine::load(model.options, {}, std::move(backend));
  const auto alone = engine->open(plan), first = engine->open(plan), second = engine->open(plan);
  Puller expected, going_on, refused;
  expected.start(*alone, some_ids(20, 3), greedy(30));
  const auto text = expected.all();
  going_on.start(*first, some_ids(20, 3), greedy(30));
  std::vector<int32_t> got = going_on.next().ids;
  *exhausted = true;
  refused.start(*second, some_ids(9, 4), greedy(5));
  CHECK(code_of([&] { refused.all(); }) == Code::out_of_memory);
  for (const int32_t id : going_on.all()) got.push_back(id);
  CHECK(got == text);
  *exhausted = false;
  Puller again;
  again.start(*second, some_ids(9, 4), greedy(5));
  CHECK(again.all().size() == 5);
}

TEST(a_fork_cancelled_as_another_sequence_of_its_step_fails_stays_whole) {
  TinyModel model(tiny_config());
  const HeadPlan plan = dense_plan(model.options.config);
  auto backend = std::make_unique<ExhaustedBackend>();
  std::promise<void> began, gate;
  const auto opened = gate.get_future().share();
  std::atomic<bool> waits = false;
  std::shared_ptr<Job> cancelled;
  backend->on_begin = [&] {
    if (!waits.exchange(false)) return;
    began.set_value();
    opened.wait();
  };
  backend->on_refusal = [&] { cancelled->cancel(); };
  const auto exhausted = backend->exhausted;
  const auto engine = Engine::load(model.options, {}, std::move(backend));
  const auto ids = some_ids(70, 1);  // a whole block, and one that the fork shares in part
  const auto base = engine->open(plan), poor = engine->open(plan), busy = engine->open(plan);
  logits_of(*base, ids);
  const auto expected = logits_of(*base->fork(), {5});
  const auto fork = base->fork();
  logits_of(*busy, {1});

  waits = true;
  std::promise<EvaluateOutcome> first, second, third;
  const auto step = busy->evaluate({2}, EvaluateResult::none, [&](EvaluateOutcome outcome) { first.set_value(std::move(outcome)); });
  began.get_future().wait();  // the other two wait for this step and share the next one
  const auto fails = poor->evaluate({3}, EvaluateResult::none, [&](EvaluateOutcome outcome) { second.set_value(std::move(outcome)); });
  cancelled = fork->evaluate({4}, EvaluateResult::none, [&](EvaluateOutcome outcome) { third.set_value(std::move(outcome)); });
  *exhausted = true;
  gate.set_value();
  CHECK(!first.get_future().get().error);
  CHECK(second.get_future().get().error && third.get_future().get().error);
  *exhausted = false;
  CHECK(distance(logits_of(*fork->fork(), {5}), expected) < 1e-6);
}

}  // namespace chai
