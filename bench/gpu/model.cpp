// The whole model through the engine: random weights in the LLaMA-7B shape, dense beside the published cluster counts. Out: time to first
// token, time per token and tokens per second by batch and context, the share of what reading weights and cache once would take, K/V bytes.
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <fstream>
#include <mutex>
#include <numeric>
#include <random>
#include <utility>

#include "bench.h"
#include "engine.h"
#include "error.h"
#include "gpu.h"

namespace chai::bench {
namespace {

Config shape_of(const Options& options) {
  Config c;
  if (options.tiny) {
    c.layers = 4, c.heads = c.key_value_heads = 4, c.head_dim = 32, c.intermediate = 192, c.vocabulary = 101, c.context = 1024;
  } else {
    c.layers = 32, c.heads = c.key_value_heads = 32, c.head_dim = 128, c.intermediate = 11008, c.vocabulary = 32000, c.context = 40960;
  }
  c.hidden = c.embedding = c.heads * c.head_dim;
  c.attention_scale = 1 / std::sqrt(float(c.head_dim));
  for (int i = 0; i < c.head_dim / 2; ++i) c.rotary_frequencies.push_back(float(std::pow(10000.0, -2.0 * i / c.head_dim)));
  return c;
}

double weight_count(const Config& c) {
  const double h = c.hidden;
  return 2.0 * c.vocabulary * h + c.layers * (4.0 * h * c.query_width() + 3.0 * h * c.intermediate);
}

/// A file as large as the largest matrix; all tensors of the model lie in it, one over the other. On the device each is its own.
class RandomWeights {
 public:
  LoadOptions options;

  explicit RandomWeights(const Config& c) {
    char name[] = "/tmp/chai-weights-XXXXXX";
    const int descriptor = mkstemp(name);
    if (descriptor < 0) throw Error(Code::out_of_memory, "no room for a file of random weights in /tmp");
    close(descriptor);
    path_ = name;
    const int64_t elements = int64_t(std::max({c.vocabulary, c.intermediate, c.hidden})) * c.hidden;
    std::ofstream file(path_, std::ios::binary);
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0, 0.02f);
    std::vector<uint16_t> block(1 << 16);
    for (uint16_t& x : block) x = float16_of_float(normal(random));
    for (int64_t at = 0; at < elements; at += int64_t(block.size())) {
      std::rotate(block.begin(), block.begin() + 12345, block.end());
      file.write(reinterpret_cast<const char*>(block.data()), std::streamsize(block.size() * 2));
    }
    const uint64_t ones = uint64_t(file.tellp());
    const std::vector<uint16_t> one(size_t(c.hidden), float16_of_float(1));
    file.write(reinterpret_cast<const char*>(one.data()), std::streamsize(one.size() * 2));
    const auto matrix = [](int rows, int columns) { return FileTensor{0, 0, Element::float16, rows, columns}; };
    const FileTensor norm{0, ones, Element::float16, 1, c.hidden};
    options.config = c, options.files = {path_};
    options.token_embedding = matrix(c.vocabulary, c.hidden), options.output = matrix(c.vocabulary, c.hidden), options.final_norm = norm;
    LayerTensors layer;
    layer.attention_norm = layer.feed_forward_norm = norm;
    layer.query = matrix(c.query_width(), c.hidden), layer.key = layer.value = matrix(c.key_value_width(), c.hidden);
    layer.attention_output = matrix(c.hidden, c.query_width());
    layer.gate = layer.up = matrix(c.intermediate, c.hidden), layer.down = matrix(c.hidden, c.intermediate);
    options.layers.assign(size_t(c.layers), layer);
    options.cache_type = Element::float16;
    options.device = "cuda";
  }
  ~RandomWeights() { std::remove(path_.c_str()); }

 private:
  std::string path_;
};

HeadPlan published_plan(const Config& c) {
  HeadPlan plan;
  plan.method = Method::chai;
  for (int i = 0; i < c.layers; ++i) {
    PlanLayer layer;
    layer.rule.clusters = i * 32 < 18 * c.layers ? c.heads : std::min(4, c.heads / 2);  // 18 of 32 layers keep all heads
    plan.layers.push_back(layer);
  }
  return plan;
}

std::vector<int32_t> random_ids(int count, int vocabulary, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(size_t(count), 0);
  for (int32_t& id : ids) id = int32_t(random() % unsigned(vocabulary));
  return ids;
}

/// What the engine's thread calls may outlive the wait for it: it is shared with the callbacks.
struct News {
  std::mutex mutex;
  std::condition_variable changed;
  bool any = false;
  void tell() {
    const std::lock_guard hold(mutex);
    any = true;
    changed.notify_one();
  }
  void wait() {
    std::unique_lock hold(mutex);
    changed.wait(hold, [this] { return std::exchange(any, false); });
  }
};

/// Generates `tokens` in all sessions at once, taken as fast as they come. Returns the seconds from when every session had its first token
/// to the last token of all, and how many tokens came in that time.
std::pair<double, int> drain(std::vector<std::shared_ptr<Session>>& sessions, int vocabulary, int tokens) {
  GenerateOptions options;
  options.max_tokens = tokens;
  const auto news = std::make_shared<News>();
  std::vector<std::shared_ptr<Generation>> running;
  for (size_t i = 0; i < sessions.size(); ++i)
    running.push_back(sessions[i]->generate(random_ids(1, vocabulary, unsigned(i)), options, [news] { news->tell(); }));
  std::vector<int> got(running.size(), 0);
  std::vector<bool> ended(running.size());
  double started = 0;
  int before = 0;
  while (std::count(ended.begin(), ended.end(), false) > 0) {
    bool any = false;  // `ready` is called again only after a take that gave nothing
    for (size_t i = 0; i < running.size(); ++i) {
      const TokenBatch batch = running[i]->take();
      if (batch.error) std::rethrow_exception(batch.error);
      any |= !batch.ids.empty() || batch.finish != Finish::none;
      got[i] += int(batch.ids.size());
      if (batch.finish != Finish::none) ended[i] = true;
    }
    if (started == 0 && std::all_of(got.begin(), got.end(), [](int n) { return n > 0; }))
      started = now(), before = std::accumulate(got.begin(), got.end(), 0);
    if (!any) news->wait();
  }
  return {now() - started, std::accumulate(got.begin(), got.end(), 0) - before};
}

double evaluate_seconds(Session& session, std::vector<int32_t> ids) {
  struct Shared {
    News news;
    EvaluateOutcome outcome;
  };
  const auto shared = std::make_shared<Shared>();
  const double from = now();
  const auto job = session.evaluate(std::move(ids), EvaluateResult::last, [shared](EvaluateOutcome outcome) {
    shared->outcome = std::move(outcome);
    shared->news.tell();
  });
  shared->news.wait();
  if (shared->outcome.error) std::rethrow_exception(shared->outcome.error);
  return now() - from;
}

void close_all(std::vector<std::shared_ptr<Session>>& sessions) {
  for (const auto& session : sessions) {
    const auto news = std::make_shared<News>();
    session->close([news] { news->tell(); });
    news->wait();
  }
  sessions.clear();
}

struct Bench {
  Results& results;
  const Options& options;
  const Config& config;
  Engine& engine;
  double cache_tokens;  // that fit at full head count
  double share_kept;    // of dense cache bytes, per plan in turn

  /// Time to first token of one prompt, the membership of a clustered plan included.
  void first_token(const std::string& plan_name, const HeadPlan& plan, int tokens, double cache_share) {
    const std::string cell = "first/" + plan_name + "/" + std::to_string(tokens);
    if (!results.wants(cell)) return;
    std::vector<double> seconds;
    for (int round = 0; round < 6; ++round) {
      std::vector<std::shared_ptr<Session>> sessions{engine.open(plan)};
      const double took = evaluate_seconds(*sessions[0], random_ids(tokens, config.vocabulary, unsigned(round)));
      if (round > 0) seconds.push_back(took * 1e6);
      close_all(sessions);
    }
    const Times times = times_of(seconds);
    const double flops = 2.0 * weight_count(config) * tokens;
    results.add(Record(cell)
                    .number("tokens", tokens)
                    .number("us", times.median)
                    .number("spread", (times.most - times.least) / times.median)
                    .number("rounds", times.count)
                    .number("matrixTflopDenseEquivalent", flops / times.median * 1e-6)
                    .number("cacheShare", cache_share));
  }

  void decode(const std::string& plan_name, const HeadPlan& plan, int batch, int context) {
    const std::string cell = "decode/" + plan_name + "/" + std::to_string(batch) + "x" + std::to_string(context);
    if (!results.wants(cell)) return;
    Record record(cell);
    record.number("batch", batch).number("context", context);
    const int tokens = options.tiny ? 8 : 64;
    const double need = double(batch) * (context + tokens + 2 * page_rows_) * share_kept;
    if (need > cache_tokens) {
      const double bytes = need * 4.0 * config.layers * config.key_value_width();
      results.add(record.boolean("fits", false).number("cacheBytesNeeded", bytes));
      return;
    }
    std::vector<std::shared_ptr<Session>> sessions;
    for (int i = 0; i < batch; ++i) {
      sessions.push_back(engine.open(plan));
      if (context > 1) evaluate_seconds(*sessions.back(), random_ids(context - 1, config.vocabulary, unsigned(i)));
    }
    std::vector<double> us;
    CacheBytes held{};
    for (int round = 0; round < 3; ++round) {
      const auto [seconds, count] = drain(sessions, config.vocabulary, tokens);
      us.push_back(seconds * 1e6 * batch / count);
      held = sessions[0]->cache_bytes();
    }
    const Times times = times_of(us);
    const double cache_bytes = double(held.keys + held.values) * batch;
    // The embedding is looked up, not read; a single clustered sequence leaves out the projections of what it does not keep.
    double read = weight_count(config) - double(config.vocabulary) * config.hidden;
    if (batch == 1) read -= skipped_weights(plan);
    const double bytes = 2.0 * read + cache_bytes;
    record.number("us", times.median).number("spread", (times.most - times.least) / times.median).number("rounds", times.count);
    record.number("tokensPerSecond", 1e6 * batch / times.median).number("cacheBytes", cache_bytes).number("bytesOfOneStep", bytes);
    record.number("cacheBytesDense", double(held.dense_keys + held.dense_values) * batch);
    if (const double ceiling = Results::find(options, "ceilings", "read", "gbPerSecond"); ceiling > 0)
      record.number("shareOfByteFloor", bytes / (ceiling * 1e3) / times.median);
    if (const double dense = Results::find(options, "model", "decode/dense/" + std::to_string(batch) + "x" + std::to_string(context), "us");
        dense > 0 && plan_name != "dense")
      record.number("ratioToDense", dense / times.median);
    record.raw("smi", smi_facts(options.device).json());
    results.add(record);
    close_all(sessions);
  }

 private:
  static constexpr int page_rows_ = 64;
  double skipped_weights(const HeadPlan& plan) const {
    double heads = 0;
    for (const PlanLayer& layer : plan.layers)
      if (plan.method == Method::chai) heads += 2.0 * (config.heads - layer.rule.clusters);  // of Q and of K
    return heads * config.head_dim * config.hidden;
  }
};

}  // namespace

void measure_model(const Options& options, const cuda::DeviceFacts& device) {
  Results results(options, "model");
  const Config config = shape_of(options);
  RandomWeights weights(config);
  const double token_bytes = 4.0 * config.layers * config.key_value_width();
  uint64_t free_bytes = 0, total = 0;
  cuda::memory_of_device(free_bytes, total);
  const double room = double(free_bytes) - 2.0 * weight_count(config) - 6e9;
  const double cache_tokens = options.tiny ? 4096 : std::max(4096.0, std::min(280e3, room / token_bytes));
  weights.options.cache_tokens = int64_t(cache_tokens);
  weights.options.max_batch = 64, weights.options.max_rows = options.tiny ? 64 : 2048;
  CudaOptions cuda_options;
  cuda_options.device = device.index;
  const double started = now();
  const auto engine = Engine::load(weights.options, {}, make_cuda_backend(cuda_options));
  std::printf("loaded in %.1f s, cache for %.0f tokens\n", now() - started, cache_tokens);
  const HeadPlan dense = dense_plan(config), clustered = published_plan(config);
  double slots = 0;
  for (int layer = 0; layer < config.layers; ++layer) slots += clustered.key_slots(layer, config) + config.key_value_heads;
  Bench bench{results, options, config, *engine, cache_tokens, 1};
  struct Named {
    const char* name;
    const HeadPlan* plan;
    double share;
  };
  const Named plans[] = {{"dense", &dense, 1}, {"published", &clustered, slots / (2.0 * config.layers * config.key_value_heads)}};
  using Shapes = std::vector<std::pair<int, int>>;
  const Shapes shapes = options.tiny ? Shapes{{1, 40}, {3, 70}} : Shapes{{1, 2048}, {1, 16},    {8, 8192},  {64, 2048}, {8, 2048},
                                                                         {1, 8192}, {32, 2048}, {32, 8192}, {64, 8192}};
  try {
    for (const auto& [batch, context] : shapes)
      for (const Named& plan : plans) bench.share_kept = plan.share, bench.decode(plan.name, *plan.plan, batch, context);
    for (const int tokens : options.tiny ? std::vector<int>{30} : std::vector<int>{2048, 256, 8192, 32768})
      for (const Named& plan : plans) bench.first_token(plan.name, *plan.plan, tokens, plan.share);
  } catch (...) {
    engine->close();
    throw;
  }
  engine->close();
}

}  // namespace chai::bench
