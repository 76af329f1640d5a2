// A loaded model and its sessions as the addon sees them; see engine.h. Checks every argument, then hands requests to the scheduler.
#include "engine.h"

#include <algorithm>
#include <cstdlib>
#include <future>

#include "error.h"
#include "gpu.h"
#include "head_gram.h"
#include "scheduler.h"

namespace chai {
namespace {

constexpr size_t logit_budget = size_t{64} << 20;  // bytes of logits one step may hold

std::exception_ptr aborted(const char* what) { return std::make_exception_ptr(Error(Code::aborted, std::string(what) + " was aborted")); }

void run_all(Callbacks& callbacks) {
  for (auto& callback : callbacks) callback();
}

class SchedulerJob : public Job {
 public:
  SchedulerJob(std::shared_ptr<Scheduler> scheduler, std::shared_ptr<Request> request)
      : scheduler_(std::move(scheduler)), request_(std::move(request)) {}
  void cancel() override {
    Callbacks callbacks;
    {
      const auto hold = scheduler_->lock();
      if (request_->sequence->request == request_) scheduler_->interrupt(*request_, aborted("the evaluation"), callbacks);
    }
    run_all(callbacks);
  }

 private:
  std::shared_ptr<Scheduler> scheduler_;
  std::shared_ptr<Request> request_;
};

class SchedulerGeneration : public Generation {
 public:
  SchedulerGeneration(std::shared_ptr<Scheduler> scheduler, std::shared_ptr<GenerateRequest> request)
      : scheduler_(std::move(scheduler)), request_(std::move(request)) {}

  TokenBatch take() override {
    const auto hold = scheduler_->lock();
    TokenBatch batch = request_->take();
    if (!batch.ids.empty()) scheduler_->wake();
    return batch;
  }

  void stop(int delivered, std::function<void()> done) override {
    Callbacks callbacks;
    {
      const auto hold = scheduler_->lock();
      Sequence& sequence = *request_->sequence;
      const int length = request_->base() + std::max(0, delivered);
      if (sequence.request == request_) {
        request_->stop_at = length;
        request_->on_stopped.push_back(std::move(done));
        scheduler_->interrupt(*request_, aborted("the generation"), callbacks);
      } else {
        const bool newest = sequence.newest == request_.get() && !sequence.request && !sequence.closed;
        if (newest && sequence.length() > length) sequence.rollback(length);
        callbacks.push_back(std::move(done));
      }
    }
    run_all(callbacks);
  }

  Timings timings() const override {
    const auto hold = scheduler_->lock();
    return request_->timings();
  }

 private:
  std::shared_ptr<Scheduler> scheduler_;
  std::shared_ptr<GenerateRequest> request_;
};

class SchedulerSession : public Session {
 public:
  SchedulerSession(std::shared_ptr<Scheduler> scheduler, std::shared_ptr<Sequence> sequence)
      : scheduler_(std::move(scheduler)), sequence_(std::move(sequence)) {}
  ~SchedulerSession() override {
    close([] {});
  }

  std::shared_ptr<Job> evaluate(std::vector<int32_t> ids, EvaluateResult result, std::function<void(EvaluateOutcome)> done) override {
    const auto hold = scheduler_->lock();
    check_idle();
    if (ids.empty()) throw Error(Code::option_invalid, "evaluate: no token ids given; pass at least one");
    check_ids(ids, context());
    auto request = std::make_shared<EvaluateRequest>(sequence_, ids, result, scheduler_->config().vocabulary, std::move(done));
    scheduler_->submit(request);
    return std::make_shared<SchedulerJob>(scheduler_, std::move(request));
  }

  std::shared_ptr<Generation> generate(std::vector<int32_t> ids, GenerateOptions options, std::function<void()> ready) override {
    const auto hold = scheduler_->lock();
    check_idle();
    if (ids.empty() && sequence_->length() == 0)
      throw Error(Code::option_invalid, "generate: the prompt has no tokens and the session is empty; give at least one token");
    check_ids(ids, context() - 1);
    auto request = std::make_shared<GenerateRequest>(sequence_, ids, std::move(options), context(), std::move(ready));
    if (request->finished())
      sequence_->newest = request.get();
    else
      scheduler_->submit(request);
    return std::make_shared<SchedulerGeneration>(scheduler_, std::move(request));
  }

  std::vector<int32_t> tokens() const override {
    const auto hold = scheduler_->lock();
    check_open();
    return sequence_->tokens;
  }

  void truncate(int length) override {
    const auto hold = scheduler_->lock();
    check_idle();
    const int warm = sequence_->warmup_end(), present = sequence_->length();
    if (length < 0 || length > present || (length > 0 && length < warm && length != present))
      throw Error(Code::option_invalid, "truncate: length " + std::to_string(length) + " is not possible; allowed are 0 and " +
                                            std::to_string(warm) + " to " + std::to_string(present) +
                                            (warm > 0 ? " (membership depends on the warm-up tokens)" : ""));
    sequence_->rollback(length);
    scheduler_->wake();
  }

  std::shared_ptr<Session> fork() override {
    const auto hold = scheduler_->lock();
    check_idle();
    return std::make_shared<SchedulerSession>(scheduler_, scheduler_->fork(*sequence_));
  }

  std::optional<HeadMap> head_maps() const override {
    const auto hold = scheduler_->lock();
    check_open();
    if (!sequence_->cache->resolved()) return std::nullopt;
    return sequence_->cache->head_map();
  }

  CacheBytes cache_bytes() const override {
    const auto hold = scheduler_->lock();
    check_open();
    const CacheUse use = sequence_->cache->use(scheduler_->page_bytes());
    return {use.keys, use.values, use.dense_keys, use.dense_values};
  }

  std::vector<double> head_gram(const std::vector<int>& rows) override {
    FeatureShape shape;
    std::promise<std::vector<float>> downloaded;
    {
      const auto hold = scheduler_->lock();
      check_idle();
      shape = feature_shape(rows);
      const size_t count = size_t(shape.layers) * size_t(shape.heads) * size_t(shape.length);
      scheduler_->run_errand([features = sequence_->cache->features(), count, &downloaded](Backend* backend) {
        try {
          if (!backend) throw Error(Code::closed, "the model was closed while it was working");
          std::vector<float> host(count);
          backend->download(host.data(), features.get(), count * sizeof(float));
          downloaded.set_value(std::move(host));
        } catch (...) {
          downloaded.set_exception(std::current_exception());
        }
      });
    }
    return chai::head_gram(downloaded.get_future().get(), shape, rows);
  }

  void close(std::function<void()> done) override {
    Callbacks callbacks;
    {
      const auto hold = scheduler_->lock();
      if (sequence_->closed && !sequence_->request) {
        callbacks.push_back(std::move(done));
      } else {
        sequence_->on_closed.push_back(std::move(done));
        scheduler_->close_sequence(*sequence_, callbacks);
      }
    }
    run_all(callbacks);
  }

 private:
  /// Proves that the sequence has feature rows up to the last of `rows`.
  FeatureShape feature_shape(const std::vector<int>& rows) const {
    const HeadPlan& plan = *sequence_->cache->geometry().plan;
    if (plan.method != Method::chai || sequence_->cache->resolved())
      throw Error(Code::option_invalid,
                  "headGram: the session is not warming up; it needs method chai and fewer tokens than warmupStart + "
                  "warmupTokens");
    const int seen = sequence_->cache->features() ? std::max(0, sequence_->cached - plan.warmup_start) : 0;
    int before = 0;
    for (const int row : rows) {
      if (row <= before || row > seen)
        throw Error(Code::option_invalid, "headGram: rows must ascend from 1 to the " + std::to_string(seen) +
                                              " feature rows there are, not " + std::to_string(row) + " after " + std::to_string(before));
      before = row;
    }
    const Config& config = scheduler_->config();
    return {config.layers, config.heads, plan.warmup_start, plan.feature_length()};
  }
  int context() const { return scheduler_->config().context; }
  void check_open() const {
    if (sequence_->closed || scheduler_->closed()) throw Error(Code::closed, "the session is closed; open a new one");
  }
  void check_idle() const {
    check_open();
    if (sequence_->request)
      throw Error(Code::session_busy, "the session is working on another request; await it, stop it, or use a session of its own");
  }
  void check_ids(const std::vector<int32_t>& ids, int room) const {
    const int vocabulary = scheduler_->config().vocabulary;
    for (const int32_t id : ids)
      if (id < 0 || id >= vocabulary)
        throw Error(Code::option_invalid,
                    "token id " + std::to_string(id) + " is outside the vocabulary (0 to " + std::to_string(vocabulary - 1) + ")");
    const int64_t length = int64_t(sequence_->length()) + int64_t(ids.size());
    if (length > room)
      throw Error(Code::context_overflow, std::to_string(length) + " tokens do not fit: the context holds " + std::to_string(context()) +
                                              (room < context() ? " and one more token must be generated" : "") +
                                              "; shorten the prompt, truncate the session or load with a larger contextLength");
  }

  std::shared_ptr<Scheduler> scheduler_;
  std::shared_ptr<Sequence> sequence_;
};

class SchedulerEngine : public Engine {
 public:
  SchedulerEngine(std::shared_ptr<Scheduler> scheduler, std::string device)
      : scheduler_(std::move(scheduler)), device_(std::move(device)) {}
  ~SchedulerEngine() override { scheduler_->close(); }

  std::shared_ptr<Session> open(HeadPlan plan) override {
    check(plan, scheduler_->config());
    auto geometry = make_geometry(std::make_shared<const HeadPlan>(std::move(plan)), scheduler_->config());
    const auto hold = scheduler_->lock();
    if (scheduler_->closed()) throw Error(Code::closed, "the model is closed; load it again");
    return std::make_shared<SchedulerSession>(scheduler_, scheduler_->open(std::move(geometry)));
  }
  MemoryUse memory() const override {
    const auto hold = scheduler_->lock();
    return scheduler_->memory();
  }
  EngineStats stats() const override {
    const auto hold = scheduler_->lock();
    return scheduler_->stats();
  }
  std::string device() const override { return device_; }
  void close() override { scheduler_->close(); }

 private:
  std::shared_ptr<Scheduler> scheduler_;
  std::string device_;
};

/// bfloat16 has the range of float32 weights that float16 lacks, float16 the digits: the model's own choice is kept.
Element compute_type(const LoadOptions& options) {
  return options.token_embedding.type == Element::bfloat16 ? Element::bfloat16 : Element::float16;
}

std::unique_ptr<Backend> make_backend(const LoadOptions& options) {
  if (options.device == "cpu") return make_cpu_backend({options.threads});
  if (!options.device.starts_with("cuda"))
    throw Error(Code::device_unavailable, "there is no device '" + options.device + "'; use 'cpu', 'cuda', 'cuda:1' or 'auto'");
  if (options.cache_type == Element::float32)
    throw Error(Code::option_invalid, "cacheType 'float32' is for the CPU; on a CUDA device use 'float16' or 'bfloat16'");
  CudaOptions cuda;
  cuda.device = cuda_index(options.device);  // checked where it came in
  cuda.compute = compute_type(options);
  return make_cuda_backend(cuda);
}

/// The page pool: cache_tokens tokens at full head count, in whole blocks.
std::shared_ptr<PagePool> make_pool(const LoadOptions& options, Machine& machine) {
  const Config& c = options.config;
  machine.pool.type = options.cache_type;
  machine.pool.row_bytes = size_t(c.head_dim) * bytes_of(options.cache_type);
  machine.pool.page_bytes = machine.pool.row_bytes * page_rows;
  const int64_t blocks = (options.cache_tokens + page_rows - 1) / page_rows;
  const int64_t pages = blocks * 2 * c.layers * c.key_value_heads;
  if (pages <= 0 || pages > (int64_t{1} << 30))
    throw Error(Code::option_invalid, "cacheTokens " + std::to_string(options.cache_tokens) + " is out of range; lower it");
  machine.pool_memory = machine.backend->reserve(size_t(pages) * machine.pool.page_bytes, "K/V cache");
  machine.pool.base = machine.pool_memory.get();
  return std::make_shared<PagePool>(int(pages));
}

void make_activations(const Config& c, const StepLimits& limits, Machine& machine) {
  Backend& backend = *machine.backend;
  Activations& a = machine.activations;
  a.x = backend.allocate_rows(limits.rows, c.hidden, "activations");
  a.mixed = backend.allocate_rows(limits.rows, c.query_width(), "attention output");
  a.logits = backend.allocate_rows(limits.logit_rows, c.vocabulary, "logits");
  const Rows shared = backend.allocate_rows(limits.rows, c.query_width(), "queries");
  a.queries.assign(c.layers, shared);
  machine.buffer_bytes =
      sizeof(float) * (size_t(limits.rows) * (c.hidden + 2 * c.query_width()) + size_t(limits.logit_rows) * c.vocabulary);
}

}  // namespace

std::shared_ptr<Engine> Engine::load(const LoadOptions& options, const Progress& progress) {
  return load(options, progress, make_backend(options));
}

std::shared_ptr<Engine> Engine::load(const LoadOptions& options, const Progress& progress, std::unique_ptr<Backend> backend) {
  check(options.config);
  if (options.max_batch < 1 || options.max_batch > 4096 || options.max_rows < options.max_batch || options.max_rows > 1 << 16)
    throw Error(Code::option_invalid, "maxBatch must be 1 to 4096, and rows a step at least that and at most 65536");
  Machine machine;
  machine.backend = std::move(backend);
  machine.loaded = load_weights(options, *machine.backend, progress);
  StepLimits limits{options.max_rows, options.max_batch, 0};
  const int affordable = int(logit_budget / (sizeof(float) * size_t(options.config.vocabulary)));
  limits.logit_rows = std::max(options.max_batch, std::min(affordable, options.max_rows));
  auto pages = make_pool(options, machine);
  make_activations(options.config, limits, machine);
  machine.backend->plan(options.config, limits.rows, limits.sequences);
  const std::string device = machine.backend->describe();
  auto scheduler =
      std::make_shared<Scheduler>(std::make_shared<const Config>(options.config), std::move(machine), std::move(pages), limits);
  scheduler->start();
  return std::make_shared<SchedulerEngine>(std::move(scheduler), device);
}

}  // namespace chai
