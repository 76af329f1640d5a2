// Random weights behind the engine; see random_model.h.
#include "random_model.h"

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

#include "cuda_backend.h"
#include "error.h"
#include "gpu.h"

namespace chai::bench {
namespace {

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

double layer_weights(const Config& c) {
  return double(c.hidden) * (2.0 * c.query_width() + 2.0 * c.key_value_width() + 3.0 * c.intermediate);
}

/// Of Q and K, in one layer, under a plan.
double skipped_weights(const HeadPlan& plan, const Config& c, int layer) {
  const int kept = scores_of(plan, layer, c);
  return double(c.hidden) * c.head_dim * ((c.heads - kept) + std::max(0, c.key_value_heads - kept));
}

double all_weights(const Config& c) { return 2.0 * c.vocabulary * c.hidden + c.layers * layer_weights(c); }

}  // namespace

Config model_shape(const Options& options) {
  Config c;
  if (options.tiny)
    c.layers = 4, c.heads = c.key_value_heads = 4, c.head_dim = 32, c.intermediate = 192, c.vocabulary = 101, c.context = 1024;
  else
    c.layers = 32, c.heads = c.key_value_heads = 32, c.head_dim = 128, c.intermediate = 11008, c.vocabulary = 32000, c.context = 40960;
  c.hidden = c.embedding = c.heads * c.head_dim;
  c.attention_scale = 1 / std::sqrt(float(c.head_dim));
  for (int i = 0; i < c.head_dim / 2; ++i) c.rotary_frequencies.push_back(float(std::pow(10000.0, -2.0 * i / c.head_dim)));
  return c;
}

HeadPlan published_plan(const Config& c) {
  HeadPlan plan;
  plan.method = Method::chai;
  for (int i = 0; i < c.layers; ++i) {
    PlanLayer layer;
    layer.rule.clusters = i * 32 < 18 * c.layers ? c.heads : std::min(4, c.heads / 2);
    plan.layers.push_back(layer);
  }
  return plan;
}

std::vector<NamedPlan> model_plans(const Config& config) { return {{"dense", dense_plan(config)}, {"published", published_plan(config)}}; }

int scores_of(const HeadPlan& plan, int layer, const Config& c) {
  if (plan.method == Method::dense) return c.heads;
  const PlanLayer& of = plan.layers[size_t(layer)];
  return plan.method == Method::chai ? of.rule.clusters : int(of.heads.query_of_score.size());
}

double weight_bytes_of(const Config& c) { return 2.0 * (all_weights(c) + (2.0 * c.layers + 1) * c.hidden); }

double token_bytes(const HeadPlan& plan, const Config& c) {
  double slots = 0;
  for (int layer = 0; layer < c.layers; ++layer) slots += plan.key_slots(layer, c) + plan.value_slots(layer, c);
  return slots * c.head_dim * 2.0;
}

double weights_read(const HeadPlan& plan, const Config& c, bool alone) {
  double weights = double(c.vocabulary) * c.hidden + c.layers * layer_weights(c);  // the embedding is looked up, not read
  for (int layer = 0; alone && layer < c.layers; ++layer) weights -= skipped_weights(plan, c, layer);
  return weights;
}

double prompt_flops(const HeadPlan& plan, const Config& c, int tokens) {
  const double pairs = double(tokens) * (tokens + 1) / 2;
  double flops = 2.0 * c.vocabulary * c.hidden;
  for (int layer = 0; layer < c.layers; ++layer) {
    flops += 2.0 * tokens * (layer_weights(c) - skipped_weights(plan, c, layer));
    flops += 2.0 * pairs * c.head_dim * (scores_of(plan, layer, c) + c.heads);
  }
  return flops;
}

/// A file little larger than the largest matrix: every tensor of the model lies 128 bytes behind the one before, over its end. None lies
/// where another of its shape does, since the engine keeps those as one.
void RandomModel::write_weights(LoadOptions& load) {
  const Config& c = config_;
  char name[] = "/tmp/chai-weights-XXXXXX";
  const int descriptor = mkstemp(name);
  if (descriptor < 0) throw Error(Code::out_of_memory, "no room for a file of random weights in /tmp");
  close(descriptor);
  path_ = name;
  constexpr int64_t apart = 64;  // elements between the starts of two tensors
  const int64_t matrices = 2 + 7 * c.layers, norms = 1 + 2 * c.layers;
  const int64_t elements = int64_t(std::max({c.vocabulary, c.intermediate, c.hidden})) * c.hidden + apart * matrices;
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
  const std::vector<uint16_t> one(size_t(c.hidden + apart * norms), float16_of_float(1));
  file.write(reinterpret_cast<const char*>(one.data()), std::streamsize(one.size() * 2));
  file.close();
  if (!file) throw Error(Code::out_of_memory, "no room for a file of random weights in /tmp");
  const auto next = [](uint64_t& offset, int rows, int columns) {
    const FileTensor tensor{0, offset, Element::float16, rows, columns};
    offset += 2 * apart;
    return tensor;
  };
  uint64_t matrix_offset = 0, norm_offset = ones;
  const auto matrix = [&](int rows, int columns) { return next(matrix_offset, rows, columns); };
  const auto norm = [&] { return next(norm_offset, 1, c.hidden); };
  load.config = c, load.files = {path_};
  load.token_embedding = matrix(c.vocabulary, c.hidden), load.output = matrix(c.vocabulary, c.hidden), load.final_norm = norm();
  for (int i = 0; i < c.layers; ++i) {
    LayerTensors layer;
    layer.attention_norm = norm(), layer.feed_forward_norm = norm();
    layer.query = matrix(c.query_width(), c.hidden), layer.attention_output = matrix(c.hidden, c.query_width());
    layer.key = matrix(c.key_value_width(), c.hidden), layer.value = matrix(c.key_value_width(), c.hidden);
    layer.gate = matrix(c.intermediate, c.hidden), layer.up = matrix(c.intermediate, c.hidden);
    layer.down = matrix(c.hidden, c.intermediate);
    load.layers.push_back(layer);
  }
}

RandomModel::RandomModel(const Options& options, const cuda::DeviceFacts& device, double cache_tokens) : config_(model_shape(options)) {
  LoadOptions load;
  write_weights(load);
  const double one = token_bytes(dense_plan(config_), config_);
  uint64_t free_bytes = 0, total = 0;
  cuda::memory_of_device(free_bytes, total);
  const double room = double(free_bytes) - weight_bytes_of(config_) - 6e9;  // what is left for buffers
  if (cache_tokens == 0) cache_tokens = options.tiny ? 4096 : std::clamp(room / one, 4096.0, 280e3);
  cache_tokens_ = std::floor(cache_tokens);
  load.cache_tokens = int64_t(cache_tokens_);
  load.cache_type = Element::float16;
  load.device = "cuda:" + std::to_string(device.index);
  load.max_batch = 64, load.max_rows = options.tiny ? 64 : 2048;
  CudaOptions cuda_options;
  cuda_options.device = device.index, cuda_options.cublas = !options.own;
  cuda_options.hopper_prefill = options.sm90;
  const double started = now();
  try {
    auto backend = make_cuda_backend(cuda_options);
    backend_ = static_cast<const cuda::CudaBackend*>(backend.get());
    engine_ = Engine::load(load, {}, std::move(backend));
  } catch (...) {
    std::remove(path_.c_str());
    throw;
  }
  std::remove(path_.c_str());
  uint64_t left = 0;
  cuda::memory_of_device(left, total);
  std::printf("loaded in %.1f s: %.4g GB of weights, cache for %.0f tokens; the device has %.4g GB less free, %s\n", now() - started,
              weight_bytes() * 1e-9, cache_tokens_, (double(free_bytes) - double(left)) * 1e-9, library().c_str());
  if (const double held = weight_bytes(); held != weight_bytes_of(config_)) {
    engine_->close();
    throw Error(Code::model_invalid, "the benchmark's model holds " + std::to_string(int64_t(held)) + " bytes of weights; its shape has " +
                                         std::to_string(int64_t(weight_bytes_of(config_))));
  }
}

RandomModel::~RandomModel() { engine_->close(); }

const std::string& RandomModel::why_not_recorded() const { return backend_->why_not_recorded(); }
const std::string& RandomModel::library() const { return backend_->library(); }

std::vector<int32_t> random_ids(int count, int vocabulary, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(size_t(count), 0);
  for (int32_t& id : ids) id = int32_t(random() % unsigned(vocabulary));
  return ids;
}

double evaluate_seconds(Session& session, std::vector<int32_t> ids, EvaluateResult result) {
  struct Shared {
    News news;
    EvaluateOutcome outcome;
  };
  const auto shared = std::make_shared<Shared>();
  const double from = now();
  const auto job = session.evaluate(std::move(ids), result, [shared](EvaluateOutcome outcome) {
    shared->outcome = std::move(outcome);
    shared->news.tell();
  });
  shared->news.wait();
  const double took = now() - from;
  if (shared->outcome.error) std::rethrow_exception(shared->outcome.error);
  for (const float logit : shared->outcome.values)
    if (!std::isfinite(logit)) throw Error(Code::device_fault, "a logit of the benchmark's model is not a number");
  return took;
}

Drained drain(const std::vector<std::shared_ptr<Session>>& sessions, int vocabulary, int tokens) {
  GenerateOptions options;
  options.max_tokens = tokens;
  const auto news = std::make_shared<News>();
  std::vector<std::shared_ptr<Generation>> running;
  for (size_t i = 0; i < sessions.size(); ++i)
    running.push_back(sessions[i]->generate(random_ids(1, vocabulary, unsigned(i)), options, [news] { news->tell(); }));
  Drained out;
  out.tokens.resize(running.size());
  std::vector<bool> ended(running.size());
  const auto count = [&] {
    return std::accumulate(out.tokens.begin(), out.tokens.end(), size_t{0}, [](size_t sum, const auto& ids) { return sum + ids.size(); });
  };
  double started = 0, stopped = 0;
  size_t before = 0, after = 0;
  while (std::count(ended.begin(), ended.end(), false) > 0) {
    bool any = false;  // `ready` is called again only after a take that gave nothing
    for (size_t i = 0; i < running.size(); ++i) {
      const TokenBatch batch = running[i]->take();
      if (batch.error) std::rethrow_exception(batch.error);
      any |= !batch.ids.empty() || batch.finish != Finish::none;
      out.tokens[i].insert(out.tokens[i].end(), batch.ids.begin(), batch.ids.end());
      if (batch.finish != Finish::none) ended[i] = true;
    }
    // The clock runs from when all have a token to when the first has its last one: between, every step is of all sessions.
    if (started == 0 && std::ranges::all_of(out.tokens, [](const auto& ids) { return !ids.empty(); })) started = now(), before = count();
    if (stopped == 0 && std::ranges::count(ended, true) > 0) stopped = now(), after = count();
    if (!any) news->wait();
  }
  for (size_t i = 0; i < running.size(); ++i) {
    const auto done = std::make_shared<News>();
    running[i]->stop(int(out.tokens[i].size()), [done] { done->tell(); });
    done->wait();
  }
  if (started > 0 && after > before) out.us = (stopped - started) * 1e6 * double(running.size()) / double(after - before);
  return out;
}

void close_all(std::vector<std::shared_ptr<Session>>& sessions) {
  for (const auto& session : sessions) {
    const auto news = std::make_shared<News>();
    session->close([news] { news->tell(); });
    news->wait();
  }
  sessions.clear();
}

}  // namespace chai::bench
