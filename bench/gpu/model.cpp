// The whole model through the engine: random weights in the LLaMA-7B shape, dense beside the published cluster counts. Out: time per token
// and tokens per second by batch and context, time to first token by prompt, what finding the membership costs, and the share of what
// reading weights and cache once, or the operations, would take.
#include <algorithm>
#include <cmath>

#include "random_model.h"

namespace chai::bench {
namespace {

struct Bench {
  Results& results;
  const Options& options;
  const std::string section;
  const double device_bytes;  // of memory
  RandomModel* model = nullptr;

  /// Of cells' names: what was measured otherwise than by default is named apart.
  std::string way() const { return options.own ? "-own/" : options.sm90 ? "-sm90/" : "/"; }
  std::string prefix() const { return "first" + way(); }
  double ceiling() const { return Results::find(options, "ceilings", "read", "gbPerSecond"); }

  /// What it was measured with.
  void add_model(Record& record) const { record.number("weightBytes", model->weight_bytes()).text("library", model->library()); }

  /// The ratio to the dense cell, and the part of the ideal gain that is reached.
  void add_ratio(Record& record, const std::string& dense_cell, double us, double ideal) const {
    if (dense_cell == record.cell()) return;
    record.number("idealRatio", ideal);
    const double dense = Results::find(options, section, dense_cell, "us");
    if (dense > 0 && us > 0) record.number("ratioToDense", dense / us).number("shareOfIdealGain", (dense / us - 1) / (ideal - 1));
  }

  void step(const std::string& cell, const NamedPlan& named, int batch, int context) {
    const HeadPlan& plan = named.plan;
    const std::string size = std::to_string(batch) + "x" + std::to_string(context);
    if (!results.wants(cell)) return;
    const Config& config = model->config();
    Record record(cell);
    record.number("batch", batch).number("context", context);
    const int tokens = options.tiny ? 8 : 32, rounds = options.tiny ? 2 : 7;
    const int base = std::max(8, context - tokens / 2 - 1);  // so that the mean depth is `context`
    const double dense_bytes = token_bytes(dense_plan(config), config);
    const double pages = 64.0 * std::ceil((base + tokens + 1) / 64.0);
    const double need = batch * pages * token_bytes(plan, config), room = model->cache_tokens() * dense_bytes;
    if (need > room) {
      if (need + model->weight_bytes() > device_bytes) record.boolean("final", true);
      results.note(record.boolean("fits", false).number("cacheBytesNeeded", need).number("cacheBytesAvailable", room));
      return;
    }
    std::vector<std::shared_ptr<Session>> sessions;
    for (int i = 0; i < batch; ++i) {
      sessions.push_back(model->engine().open(plan));
      evaluate_seconds(*sessions.back(), random_ids(base, config.vocabulary, unsigned(i)), EvaluateResult::none);
    }
    std::vector<double> us;
    EngineStats before{};
    for (int round = -1; round < rounds; ++round) {  // one to warm up: it records the step
      if (round == 0) before = model->engine().stats();
      const Drained drained = drain(sessions, config.vocabulary, tokens);
      if (round >= 0 && drained.us > 0) us.push_back(drained.us);
      for (const auto& session : sessions) session->truncate(base);
    }
    const EngineStats after = model->engine().stats();
    const Times times = times_of(us);
    CacheBytes held{};
    for (const auto& session : sessions) {
      const CacheBytes of = session->cache_bytes();
      held.keys += of.keys, held.values += of.values, held.dense_keys += of.dense_keys, held.dense_values += of.dense_values;
    }
    close_all(sessions);
    const auto step_bytes = [&](const HeadPlan& p) {
      return 2.0 * weights_read(p, config, batch == 1) + double(batch) * context * token_bytes(p, config);
    };
    const double bytes = step_bytes(plan);
    add_times(record, times).number("tokensPerSecond", 1e6 * batch / times.median);
    record.number("engineStepUs", (after.step_ms - before.step_ms) * 1e3 / double(std::max<uint64_t>(1, after.steps - before.steps)));
    record.number("bytesOfOneStep", bytes).number("cacheBytes", double(held.keys + held.values));
    record.number("cacheBytesDense", double(held.dense_keys + held.dense_values));
    if (const double gb = ceiling(); gb > 0) record.number("shareOfByteFloor", bytes / (gb * 1e3) / times.median);
    add_model(record);
    if (const std::string& why = model->why_not_recorded(); !why.empty()) record.text("notRecorded", why);
    add_ratio(record, "step/dense/" + size, times.median, step_bytes(dense_plan(config)) / bytes);
    results.add(record);
  }

  /// Microseconds to the first token of one prompt in a new session.
  double first_us(const HeadPlan& plan, int tokens) const {
    std::vector<std::shared_ptr<Session>> sessions{model->engine().open(plan)};
    const double seconds = evaluate_seconds(*sessions[0], random_ids(tokens, model->config().vocabulary, unsigned(tokens)));
    close_all(sessions);
    return seconds * 1e6;
  }
  int rounds() const { return options.tiny ? 2 : 7; }

  /// Time to first token of one prompt, the membership of a clustered plan included.
  void first(const std::string& cell, const HeadPlan& plan, int tokens) {
    if (!results.wants(cell)) return;
    const Config& config = model->config();
    std::vector<double> us;
    first_us(plan, tokens);
    for (int round = 0; round < rounds(); ++round) us.push_back(first_us(plan, tokens));
    const Times times = times_of(us);
    const double executed = prompt_flops(plan, config, tokens), dense = prompt_flops(dense_plan(config), config, tokens);
    Record record(cell);
    record.number("tokens", tokens);
    add_times(record, times).number("tokensPerSecond", 1e6 * tokens / times.median);
    record.number("tflopExecuted", executed / times.median * 1e-6).number("tflopDenseEquivalent", dense / times.median * 1e-6);
    add_model(record);
    add_ratio(record, prefix() + "dense/" + std::to_string(tokens), times.median, dense / executed);
    results.add(record);
  }

  /// A plan that says what one prompt's membership turned out to be.
  HeadPlan known_membership(const HeadPlan& plan, int tokens) const {
    std::vector<std::shared_ptr<Session>> sessions{model->engine().open(plan)};
    evaluate_seconds(*sessions[0], random_ids(tokens, model->config().vocabulary, unsigned(tokens)));
    HeadPlan fixed;
    fixed.method = Method::explicit_map;
    const HeadMap map = sessions[0]->head_maps().value();
    for (const LayerHeads& heads : map) {
      PlanLayer layer;
      layer.heads = heads;
      fixed.layers.push_back(std::move(layer));
    }
    close_all(sessions);
    return fixed;
  }

  /// The published plan, and the same membership given in advance: what is between them is the cost of finding it. In turns, since it is
  /// less than what a device's clock drifts by in a minute.
  void membership(const std::string& cell, const HeadPlan& plan, int tokens) {
    if (!results.wants(cell)) return;
    const HeadPlan known = known_membership(plan, tokens);
    std::vector<double> with, without, extra;
    for (int round = -1; round < 2 * rounds(); ++round) {
      const double found = first_us(plan, tokens), given = first_us(known, tokens);
      if (round < 0) continue;
      with.push_back(found), without.push_back(given), extra.push_back(found - given);
    }
    const Times found = times_of(with), more = times_of(extra);
    Record record(cell);
    record.number("tokens", tokens).number("foundUs", found.median).number("knownUs", times_of(without).median);
    record.number("extraUs", more.median).number("extraLeastUs", more.least).number("extraMostUs", more.most);
    results.add(record.number("shareOfFirstToken", more.median / found.median));
  }
};

}  // namespace

void measure_model(const Options& options, const cuda::DeviceFacts& device) {
  Results results(options, "model");
  Bench bench{results, options, "model", double(device.total_bytes)};
  using Shapes = std::vector<std::pair<int, int>>;
  const Shapes shapes =
      options.tiny ? Shapes{{1, 40}, {3, 70}} : Shapes{{1, 2048},  {1, 16},    {8, 8192},  {64, 2048}, {8, 2048}, {1, 8192},
                                                       {32, 2048}, {1, 32768}, {32, 8192}, {8, 32768}, {64, 8192}};
  std::vector<std::string> cells;
  for (const auto& [batch, context] : shapes)
    for (const char* plan : {"dense", "published"})
      cells.push_back(std::string("step/") + plan + "/" + std::to_string(batch) + "x" + std::to_string(context));
  if (!results.wants_any(cells)) return;
  RandomModel model(options, device, 0);
  bench.model = &model;
  const std::vector<NamedPlan> plans = model_plans(model.config());
  for (const auto& [batch, context] : shapes)
    for (const NamedPlan& plan : plans) {
      const std::string cell = "step/" + plan.name + "/" + std::to_string(batch) + "x" + std::to_string(context);
      measure_or_note(results, cell, [&, batch = batch, context = context] { bench.step(cell, plan, batch, context); });
    }
}

void measure_first(const Options& options, const cuda::DeviceFacts& device) {
  Results results(options, "first");
  Bench bench{results, options, "first", double(device.total_bytes)};
  const std::vector<int> prompts =
      options.tiny ? std::vector<int>{30, 70} : std::vector<int>{2048, 256, 8192, 512, 1024, 4096, 16384, 32768};
  std::vector<std::string> cells{"membership" + bench.way() + std::to_string(prompts[0])};
  for (const int tokens : prompts)
    for (const char* plan : {"dense", "published"}) cells.push_back(bench.prefix() + plan + "/" + std::to_string(tokens));
  if (!results.wants_any(cells)) return;
  RandomModel model(options, device, options.tiny ? 0 : 40960 * 2);
  bench.model = &model;
  const std::vector<NamedPlan> plans = model_plans(model.config());
  for (const int tokens : prompts) {
    for (const auto& [name, plan] : plans) {
      const std::string cell = bench.prefix() + name + "/" + std::to_string(tokens);
      const HeadPlan& of = plan;
      measure_or_note(results, cell, [&] { bench.first(cell, of, tokens); });
    }
    if (const std::string& cell = cells[0]; tokens == prompts[0])
      measure_or_note(results, cell, [&] { bench.membership(cell, plans[1].plan, tokens); });
  }
}

void measure_memory(const Options& options, const cuda::DeviceFacts& device) {
  Results results(options, "memory");
  const int batch = options.tiny ? 2 : 64, context = options.tiny ? 70 : 2048;
  const Config config = model_shape(options);
  const std::string size = "/" + std::to_string(batch) + "x" + std::to_string(context);
  const std::vector<NamedPlan> plans = model_plans(config);
  if (!results.wants_any({"memory/dense" + size, "memory/published" + size})) return;
  const double dense_bytes = token_bytes(dense_plan(config), config), least_tokens = 4096;
  double base_mib = 0;
  {  // after prompts of both kinds: kernels and what libraries allocate come with the first use
    const RandomModel model(options, device, least_tokens);
    for (const NamedPlan& named : plans) {
      std::vector<std::shared_ptr<Session>> sessions{model.engine().open(named.plan)};
      evaluate_seconds(*sessions[0], random_ids(context, config.vocabulary, 1), EvaluateResult::none);
      close_all(sessions);
    }
    base_mib = smi_facts(options.device).used_mib;
  }
  const auto measure = [&](const std::string& cell, const HeadPlan& plan) {
    if (!results.wants(cell)) return;
    // A pool just large enough for the batch, at this plan's bytes a token and in whole pages.
    const double pool = batch * 64.0 * std::ceil(context / 64.0) * token_bytes(plan, config);
    const double tokens = std::ceil(pool / dense_bytes / 64.0) * 64.0 + 64.0;
    const RandomModel model(options, device, tokens);
    std::vector<std::shared_ptr<Session>> sessions;
    CacheBytes held{};
    for (int i = 0; i < batch; ++i) {
      sessions.push_back(model.engine().open(plan));
      evaluate_seconds(*sessions.back(), random_ids(context, config.vocabulary, unsigned(i)), EvaluateResult::none);
      const CacheBytes of = sessions.back()->cache_bytes();
      held.keys += of.keys, held.values += of.values;
    }
    const MemoryUse use = model.engine().memory();
    const double used_mib = smi_facts(options.device).used_mib;
    close_all(sessions);
    Record record(cell);
    record.number("batch", batch).number("context", context).number("cacheBytes", double(held.keys + held.values));
    record.number("keyBytes", double(held.keys)).number("valueBytes", double(held.values));
    record.number("reservedBytes", double(use.cache_reserved)).number("usedBytes", double(use.cache_used));
    record.number("weightBytes", double(use.weights)).number("bufferBytes", double(use.buffers));
    if (used_mib > 0) {
      record.number("smiUsedMiB", used_mib);
      record.number("smiCacheBytes", (used_mib - base_mib) * 1048576.0 + least_tokens * dense_bytes);
    }
    results.note(record);  // bytes: a slow device has as many
  };
  for (const NamedPlan& named : plans) {
    const std::string cell = "memory/" + named.name + size;
    measure_or_note(results, cell, [&] { measure(cell, named.plan); });
  }
}

}  // namespace chai::bench
