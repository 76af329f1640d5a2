// Decode steps that follow each other before their results are known, on a backend that allows it: everything a caller can see must be as
// with one step at a time. Texts, finishes, bytes and errors are compared with those of the same engine at one step in flight.
#include <atomic>
#include <deque>
#include <thread>

#include "check.h"
#include "engine_calls.h"
#include "reference_backend.h"
#include "tiny_model.h"

namespace chai {
namespace {

/// What a test reads and sets while the engine owns the backend.
struct Controls {
  std::atomic<int> most_in_flight{0}, submitted{0}, finished{0};
  std::atomic<int> allowed{1 << 30};           // steps that may be finished
  std::atomic<int> breaches{0};                // of what backend.h promises of a step behind others
  std::atomic<int> fail_at{0}, fail_count{1};  // steps whose `finish` throws, counted from 1
  std::atomic<size_t> largest_table{1 << 20};  // bytes of a page table for which there is memory
};

/// Runs a step when it is submitted; what it drew stays hidden from the host until it is finished.
class AheadBackend : public ReferenceBackend {
 public:
  explicit AheadBackend(int depth) : depth_(depth) {}
  std::shared_ptr<Controls> controls = std::make_shared<Controls>();

  int steps_in_flight() const override { return depth_; }
  Memory allocate(size_t bytes, const char* what) override {
    if (bytes > controls->largest_table && std::string(what) == "page table") throw Error(Code::out_of_memory, "none left");
    return ReferenceBackend::allocate(bytes, what);
  }
  void plan(const Config& config, int rows, int sequences) override {
    context_ = config.context;
    ReferenceBackend::plan(config, rows, sequences);
  }
  void begin(const Step& step) override {
    for (const int32_t position : step.positions) controls->breaches += position >= context_;
    if (in_flight_.empty()) return;
    for (const Segment& segment : step.segments) controls->breaches += segment.count > 1 || segment.warm_up;
    for (const Draw& draw : step.draws) controls->breaches += draw.sampling.penalised();
  }
  void embed(const Step& step, const ModelWeights& weights, Rows& x) override {
    Step known = step;
    for (int32_t& token : known.tokens)
      if (token < 0) token = last_.drawn.at(size_t(~token));
    ReferenceBackend::embed(known, weights, x);
  }
  void submit(const Step&) override {
    last_ = {};
    ReferenceBackend::finish(last_);
    in_flight_.push_back(last_);
    ++controls->submitted;
    controls->most_in_flight = std::max(controls->most_in_flight.load(), int(in_flight_.size()));
  }
  void finish(Step& step) override {
    while (controls->finished >= controls->allowed) std::this_thread::sleep_for(std::chrono::microseconds(200));
    step.drawn = in_flight_.front().drawn, step.logprobs = in_flight_.front().logprobs;
    in_flight_.pop_front();
    const int first = controls->fail_at;
    const int now = ++controls->finished;
    if (first > 0 && now >= first && now < first + controls->fail_count) throw Error(Code::device_fault, "fell off the bus");
  }

 private:
  const int depth_;
  int context_ = 0;
  Step last_;
  std::deque<Step> in_flight_;
};

struct Bench {
  std::shared_ptr<Controls> controls;
  std::shared_ptr<Engine> engine;
  Bench(const LoadOptions& options, int depth) {
    auto backend = std::make_unique<AheadBackend>(depth);
    controls = backend->controls;
    engine = Engine::load(options, {}, std::move(backend));
  }
};

/// All that a caller sees of a generation, and of the session after it.
struct Seen {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
  Finish finish = Finish::none;
  int32_t stop_token = -1;
  std::optional<Code> failed;
  int prompt_tokens = 0, decode_tokens = 0;
  std::vector<int32_t> tokens;
  uint64_t keys = 0, values = 0;
  bool operator==(const Seen&) const = default;
};

Seen seen_of(Session& session, std::vector<int32_t> ids, GenerateOptions options) {
  Puller puller;
  puller.start(session, std::move(ids), std::move(options));
  Seen seen;
  while (seen.finish == Finish::none && !seen.failed) {
    const TokenBatch batch = puller.next();
    seen.ids.insert(seen.ids.end(), batch.ids.begin(), batch.ids.end());
    seen.logprobs.insert(seen.logprobs.end(), batch.logprobs.begin(), batch.logprobs.end());
    seen.finish = batch.finish, seen.stop_token = batch.stop_token;
    try {
      if (batch.error) std::rethrow_exception(batch.error);
    } catch (const Error& error) {
      seen.failed = error.code;
    }
  }
  seen.prompt_tokens = puller.generation->timings().prompt_tokens, seen.decode_tokens = puller.generation->timings().decode_tokens;
  const CacheBytes bytes = session.cache_bytes();  // at once: nothing may be held for steps that still run in vain
  seen.keys = bytes.keys, seen.values = bytes.values;
  seen.tokens = session.tokens();
  return seen;
}

GenerateOptions drawn(int count, unsigned seed, float penalty = 1) {
  GenerateOptions options = greedy(count);
  options.sampling.temperature = 0.9f, options.sampling.seed = seed, options.sampling.repetition_penalty = penalty;
  options.sampling.logprobs = true;
  return options;
}

/// A token that the text first gives at place `at`, so that stopping there is no accident.
GenerateOptions stopping_at(Engine& engine, const HeadPlan& plan, const std::vector<int32_t>& prompt, size_t at) {
  for (unsigned seed = 1;; ++seed) {
    GenerateOptions options = drawn(int(at) + 20, seed);
    const auto text = seen_of(*engine.open(plan), prompt, options).ids;
    if (std::find(text.begin(), text.end(), text[at]) != text.begin() + long(at)) continue;
    options.stop_tokens = {text[at]};
    return options;
  }
}

}  // namespace

TEST(steps_ahead_show_a_caller_nothing) {
  Config config = tiny_config(2);
  config.context = 100;
  TinyModel model(config);
  const HeadPlan dense = dense_plan(config), clustered = chai_plan(config, {2, 4});
  Bench single(model.options, 1), pair(model.options, 2), many(model.options, 4);
  struct Case {
    const HeadPlan* plan;
    int prompt;
    GenerateOptions options;
    bool ahead = true;
    Finish finish = Finish::length;
  };
  std::vector<Case> cases = {{&dense, 20, greedy(30)},
                             {&clustered, 3, drawn(30, 5)},  // its warm-up ends while it decodes
                             {&dense, 30, drawn(1, 5), false},
                             {&dense, 10, drawn(20, 7, 1.3f), false},
                             {&dense, 80, greedy(500)}};  // to the end of the context
  // The last rows of a page, and the first of the next: a step in vain would hold pages.
  for (const int prompt : {59, 60, 61}) {
    cases.push_back({&dense, prompt, stopping_at(*single.engine, dense, some_ids(prompt, unsigned(prompt)), 4), true, Finish::stop});
    cases.push_back(
        {&clustered, prompt, stopping_at(*single.engine, clustered, some_ids(prompt, unsigned(prompt)), 4), true, Finish::stop});
  }
  for (const Case& c : cases) {
    const auto prompt = some_ids(c.prompt, unsigned(c.prompt));
    const auto session = single.engine->open(*c.plan);
    single.controls->submitted = 0;
    const Seen expected = seen_of(*session, prompt, c.options);
    CHECK(expected.finish == c.finish);
    const int steps = single.controls->submitted;
    const auto next = c.prompt < 80 ? logits_of(*session, {1, 2, 3}) : std::vector<float>{};
    for (Bench* bench : {&pair, &many}) {
      bench->controls->most_in_flight = bench->controls->submitted = 0;
      const auto other = bench->engine->open(*c.plan);
      CHECK(seen_of(*other, prompt, c.options) == expected);
      CHECK(c.finish == Finish::stop || bench->controls->submitted == steps);  // a limit is known: nothing runs in vain
      if (!next.empty()) CHECK(logits_of(*other, {1, 2, 3}) == next);
      CHECK(ran_ahead(bench->controls->most_in_flight, !c.ahead ? 1 : bench == &pair ? 2 : 4));
    }
    CHECK(single.controls->most_in_flight == 1);
  }
  CHECK(pair.engine->memory().cache_used == 0);
  CHECK(pair.controls->breaches == 0 && many.controls->breaches == 0);
}

TEST(sequences_end_and_join_among_steps_ahead) {
  TinyModel model(tiny_config(2));
  model.options.max_rows = 16;  // prompts come in pieces
  const HeadPlan dense = dense_plan(model.options.config), clustered = chai_plan(model.options.config, {2, 4});
  constexpr int count = 7;
  const auto plan_of = [&](int i) -> const HeadPlan& { return i % 2 ? clustered : dense; };
  const auto prompt_of = [](int i) { return some_ids(2 + 11 * i, 50 + unsigned(i)); };
  std::vector<Seen> alone;
  std::vector<GenerateOptions> options;
  {
    Bench single(model.options, 1);
    for (int i = 0; i < count; ++i) {
      options.push_back(i % 3 == 0 ? stopping_at(*single.engine, plan_of(i), prompt_of(i), size_t(5 + i)) : drawn(10 + 5 * i, unsigned(i)));
      if (i == 4) options.back().sampling.repetition_penalty = 1.2f;
      alone.push_back(seen_of(*single.engine->open(plan_of(i)), prompt_of(i), options[size_t(i)]));
    }
  }
  for (const int depth : {2, 4}) {
    Bench bench(model.options, depth);
    std::vector<Seen> together(count);
    std::vector<std::thread> callers;
    for (int i = 0; i < count; ++i)
      callers.emplace_back([&, i] {
        const auto session = bench.engine->open(plan_of(i));
        std::this_thread::sleep_for(std::chrono::milliseconds(5 * i));
        together[size_t(i)] = seen_of(*session, prompt_of(i), options[size_t(i)]);
      });
    for (auto& caller : callers) caller.join();
    for (int i = 0; i < count; ++i) CHECK(together[size_t(i)] == alone[size_t(i)]);
    CHECK(ran_ahead(bench.controls->most_in_flight, depth));
    CHECK(bench.engine->stats().largest_batch > 1);
    CHECK(bench.controls->breaches == 0);
  }
}

TEST(an_unread_generation_pauses_after_four_tokens) {
  TinyModel model(tiny_config(2));
  for (const int depth : {1, 2, 4}) {
    Bench bench(model.options, depth);
    const auto session = bench.engine->open(dense_plan(model.options.config));
    const auto generation = session->generate(some_ids(5, 1), greedy(20), [] {});
    while (bench.engine->stats().steps < 4) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(60));  // for a fifth
    CHECK(generation->take().ids.size() == 4);
  }
}

TEST(newcomers_and_work_between_steps_wait_for_the_steps_in_flight_only) {
  TinyModel model(tiny_config(2));
  const HeadPlan plan = chai_plan(model.options.config, {2, 4});
  for (const int depth : {2, 4}) {
    Bench bench(model.options, depth);
    Controls& controls = *bench.controls;
    const auto first = bench.engine->open(plan), second = bench.engine->open(plan), warming = bench.engine->open(plan);
    logits_of(*warming, some_ids(4, 1));
    const auto expected = warming->head_gram({4});
    const int before = controls.finished;
    controls.allowed = before;  // from here on each step waits to be let go
    Puller runner;
    runner.start(*first, some_ids(5, 1), greedy(200));
    const auto let_go = [&](int steps) {
      for (int i = 0; i < steps; ++i) ++controls.allowed, runner.next();
    };
    let_go(10);
    const auto newcomer = second->generate(some_ids(9, 2), greedy(4), [] {});
    let_go(depth + 1);
    CHECK(!newcomer->take().ids.empty());
    let_go(10);
    auto gram = std::async(std::launch::async, [&] { return warming->head_gram({4}); });
    const auto served = [&] { return gram.wait_for(std::chrono::milliseconds(20)) == std::future_status::ready; };
    for (int steps = 0; steps < 100 && !served(); ++steps) let_go(1);  // half of what the runner has left
    CHECK(served());
    std::thread closer([&] { bench.engine->close(); });
    while (code_of([&] { first->tokens(); }) != Code::closed) std::this_thread::yield();
    const int taken = controls.allowed;
    controls.allowed = 1 << 30;
    CHECK(gram.get() == expected);
    closer.join();
    CHECK(controls.finished <= taken + depth);
    CHECK(controls.breaches == 0);
  }
}

TEST(stopping_among_steps_ahead_rolls_back_to_what_was_delivered) {
  TinyModel model(tiny_config(2));
  const HeadPlan plan = chai_plan(model.options.config, {2, 4});
  const auto prompt = some_ids(56, 9), more = some_ids(10, 10);
  for (const int depth : {2, 4}) {
    Bench bench(model.options, depth);
    for (const int delivered : {6, 7, 8}) {  // 64 tokens are a page
      const auto session = bench.engine->open(plan), other = bench.engine->open(plan);
      Puller puller;
      puller.start(*session, prompt, greedy(200));
      std::vector<int32_t> whole = prompt;
      while (whole.size() < prompt.size() + size_t(delivered)) {
        const auto batch = puller.next();
        whole.insert(whole.end(), batch.ids.begin(), batch.ids.end());
      }
      puller.stop(delivered);
      whole.resize(prompt.size() + size_t(delivered));
      CHECK(session->tokens() == whole);
      logits_of(*other, whole);
      CHECK(session->cache_bytes().keys == other->cache_bytes().keys && session->cache_bytes().values == other->cache_bytes().values);
      CHECK(logits_of(*session, more) == logits_of(*other, more));
    }
  }
}

TEST(too_few_pages_end_what_they_end_with_single_steps) {
  TinyModel model(tiny_config(2));
  model.options.cache_tokens = 3 * page_rows;
  const HeadPlan plan = dense_plan(model.options.config);
  std::vector<std::vector<Seen>> seen;
  for (const int depth : {1, 2}) {
    Bench bench(model.options, depth);
    const auto first = bench.engine->open(plan), second = bench.engine->open(plan);
    std::vector<Seen> both(2);
    std::thread other([&] { both[0] = seen_of(*first, some_ids(40, 1), greedy(50)); });
    constexpr uint64_t block = 2 * 8 * page_rows * 8 * sizeof(float);  // layers, heads, rows, head_dim
    while (first->cache_bytes().keys < 2 * block) std::this_thread::yield();
    both[1] = seen_of(*second, some_ids(30, 2), greedy(60));
    other.join();
    CHECK(both[0].ids.size() == 50 && !both[0].failed);
    CHECK(both[1].failed == Code::out_of_memory);
    CHECK(both[1].tokens.size() == page_rows + 1);  // the last one drawn was never put in
    seen.push_back(both);
  }
  CHECK(seen[0] == seen[1]);
}

TEST(a_step_that_fails_in_flight_takes_no_token_before_it) {
  TinyModel model(tiny_config(2));
  const HeadPlan plan = chai_plan(model.options.config, {2, 4});
  std::vector<int32_t> text;
  for (const int depth : {1, 2, 4}) {
    Bench bench(model.options, depth);
    const auto session = bench.engine->open(plan);
    const auto prompt = some_ids(20, 3);
    if (depth == 1) text = seen_of(*bench.engine->open(plan), prompt, greedy(20)).ids;
    bench.controls->fail_at = (depth == 1 ? 20 : 0) + 9;
    bench.controls->fail_count = depth;
    const Seen seen = seen_of(*session, prompt, greedy(20));
    CHECK(seen.failed == Code::device_fault);
    CHECK(seen.ids == std::vector<int32_t>(text.begin(), text.begin() + 8));
    CHECK(seen.keys == 0 && bench.engine->memory().cache_used == 0);
    bench.controls->fail_at = 0;
    CHECK(seen_of(*session, {}, greedy(12)).ids == std::vector<int32_t>(text.begin() + 8, text.end()));
  }
}

TEST(a_step_that_cannot_be_submitted_ends_its_request_in_its_turn) {
  TinyModel model(tiny_config(2));
  const HeadPlan plan = dense_plan(model.options.config);
  std::vector<Seen> seen;
  std::vector<int32_t> expected;
  for (const int depth : {1, 2, 4}) {
    Bench bench(model.options, depth);
    if (depth == 1) expected = seen_of(*bench.engine->open(plan), some_ids(4, 6), greedy(60)).ids;
    const auto longer = bench.engine->open(plan), other = bench.engine->open(plan);
    std::vector<int32_t> ids;
    Puller puller;
    puller.start(*other, some_ids(4, 6), greedy(60));
    ids = puller.next().ids;
    std::thread reader([&] {
      for (const int32_t id : puller.all()) ids.push_back(id);
    });
    bench.controls->largest_table = 4 * 2 * 16 * sizeof(int32_t);  // four blocks of 2 layers with 8 K and 8 V slots
    seen.push_back(seen_of(*longer, some_ids(4 * page_rows - 6, 5), greedy(40)));
    reader.join();
    CHECK(seen.back().failed == Code::out_of_memory);
    CHECK(seen.back().ids.size() == 7);
    CHECK(ids == expected);
  }
  CHECK(seen[0] == seen[1] && seen[0] == seen[2]);
}

}  // namespace chai
