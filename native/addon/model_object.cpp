// NativeModel and load(); see model_object.h.
#include "model_object.h"

#include <atomic>
#include <chrono>

#include "cancel.h"
#include "job.h"
#include "options.h"
#include "session_object.h"
#include "wrap.h"

namespace chai::addon {

OpenModel::OpenModel(Environment& environment, std::shared_ptr<Engine> engine, Config config)
    : environment_(environment.shared_from_this()), engine_(std::move(engine)), config_(std::move(config)) {
  environment_->opened(*engine_);
  report_memory();
}

OpenModel::~OpenModel() {
  report(0);
  environment_->gone(*engine_);
  if (!closing_) environment_->retire(std::move(engine_));
}

Engine& OpenModel::engine() const {
  if (closing_) throw Error(Code::closed, "the model is closed; load it again");
  return *engine_;
}

void OpenModel::report_memory() noexcept {
  try {
    const MemoryUse use = closing_ ? MemoryUse{} : engine_->memory();
    report(int64_t(use.weights + use.buffers + use.cache_used));
  } catch (...) {  // an estimate for the garbage collector is worth no failure
  }
}

void OpenModel::report(int64_t bytes) noexcept {
  int64_t total = 0;
  if (bytes != reported_ && napi_adjust_external_memory(environment_->env(), bytes - reported_, &total) == napi_ok) reported_ = bytes;
}

namespace {

struct ModelHandle {
  std::shared_ptr<OpenModel> model;
  Napi::Reference<Napi::Promise> closed;  // of the first close()
};

/// Bytes read so far, from the loading thread to onProgress, at most about 20 times a second.
class LoadProgress : public Letter, public std::enable_shared_from_this<LoadProgress> {
 public:
  LoadProgress(std::shared_ptr<Mailbox> mailbox, const Napi::Value& callback) : mailbox_(std::move(mailbox)) {
    if (callback.IsUndefined()) return;
    if (!callback.IsFunction()) refuse(Code::option_invalid, "onProgress", "a function", callback);
    callback_ = Napi::Persistent(callback.As<Napi::Function>());
    wanted_ = true;
  }

  /// Loading thread; false ends the load.
  bool report(uint64_t done, uint64_t total) {
    if (cancelled_) return false;
    const auto now = std::chrono::steady_clock::now();
    if (!wanted_ || (done < total && now - last_ < std::chrono::milliseconds(50))) return true;
    last_ = now;
    done_ = done;
    total_ = total;
    mailbox_->post(shared_from_this());
    return true;
  }
  void cancel() { cancelled_ = true; }
  bool cancelled() const { return cancelled_; }

  void deliver(Napi::Env env) override {
    if (callback_.IsEmpty() || cancelled_) return;
    try {
      callback_.Call({Napi::Number::New(env, double(done_)), Napi::Number::New(env, double(total_))});
    } catch (...) {
      cancel();
      if (failed) failed(std::current_exception());
    }
  }
  void drop() noexcept override {
    callback_.Reset();
    failed = nullptr;
  }
  /// JS thread: told what onProgress throws; the load is cancelled then.
  std::function<void(std::exception_ptr)> failed;

 private:
  const std::shared_ptr<Mailbox> mailbox_;
  Napi::FunctionReference callback_;
  bool wanted_ = false;
  std::atomic<bool> cancelled_ = false;
  std::atomic<uint64_t> done_ = 0, total_ = 0;
  std::chrono::steady_clock::time_point last_{};  // loading thread only
};

using Loaded = std::shared_ptr<Engine>;

Loaded load_engine(const LoadOptions& options, LoadProgress& progress) {
  Loaded engine = Engine::load(options, [&](uint64_t done, uint64_t total) { return progress.report(done, total); });
  if (progress.cancelled()) {
    engine->close();
    throw Error(Code::aborted, "loading was aborted");
  }
  return engine;
}

napi_value start_load(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Environment> environment = Environment::of(info.Env());
  auto options = std::make_shared<const LoadOptions>(load_options(info[0]));
  auto progress = std::make_shared<LoadProgress>(environment->mailbox(), info[2]);
  const std::shared_ptr<Cancel> cancel = Cancel::install(info[1]);
  const auto job = Job<Loaded>::create(*environment, [environment, options, progress](Napi::Env, Loaded& engine) {
    auto handle = std::make_unique<ModelHandle>();
    handle->model = std::make_shared<OpenModel>(*environment, std::move(engine), options->config);
    if (progress->cancelled()) throw Error(Code::aborted, "loading was aborted");  // too late for the loading thread
    return wrap(*environment, environment->model_class, std::move(handle));
  });
  job->ended = [progress, cancel] {
    progress->cancel();
    progress->drop();
    cancel->ended();
  };
  progress->failed = [job](std::exception_ptr error) { job->reason = std::move(error); };
  cancel->started([progress] { progress->cancel(); });
  const napi_value promise = job->promise();
  Job<Loaded>::run(job, *environment, [options, progress] { return load_engine(*options, *progress); });
  return promise;
}

napi_value create_sequence(const Napi::CallbackInfo& info, ModelHandle& handle) {
  const std::shared_ptr<OpenModel> model = handle.model;
  model->engine();  // closed comes before complaints about arguments
  HeadPlan plan = head_plan(info[0], model->config());
  return make_sequence(model, model->engine().open(std::move(plan)));
}

napi_value memory(const Napi::CallbackInfo& info, ModelHandle& handle) {
  const MemoryUse use = handle.model->engine().memory();
  Napi::Object result = Napi::Object::New(info.Env());
  set(result, "weights", use.weights);
  set(result, "cacheUsed", use.cache_used);
  set(result, "cacheReserved", use.cache_reserved);
  set(result, "buffers", use.buffers);
  return result;
}

napi_value stats(const Napi::CallbackInfo& info, ModelHandle& handle) {
  const EngineStats stats = handle.model->engine().stats();
  Napi::Object result = Napi::Object::New(info.Env());
  set(result, "steps", stats.steps);
  set(result, "rows", stats.rows);
  result.Set("largestBatch", stats.largest_batch);
  result.Set("stepMs", stats.step_ms);
  return result;
}

napi_value device(const Napi::CallbackInfo& info, ModelHandle& handle) {
  return Napi::String::New(info.Env(), handle.model->engine().device());
}

napi_value close(const Napi::CallbackInfo& info, ModelHandle& handle) {
  if (!handle.closed.IsEmpty()) return handle.closed.Value();
  const std::shared_ptr<OpenModel> model = handle.model;
  const auto job = Job<Nothing>::create(model->environment(), undefined);
  const napi_value promise = job->promise();
  handle.closed = Napi::Persistent(Napi::Promise(info.Env(), promise));
  model->set_closing();
  job->ended = [model] { model->report_memory(); };
  Job<Nothing>::run(job, model->environment(), [engine = model->shared()] {
    engine->close();
    return Nothing{};
  });
  return promise;
}

}  // namespace

template <>
struct ClassOf<ModelHandle> {
  static constexpr napi_type_tag tag{0x6f1d2c5e9b7a4480, 0x9d3e5f0a1c2b7e61};
  static constexpr const char* name = "NativeModel";
};

void define_model_class(Environment& environment) {
  environment.model_class = define_class<ModelHandle>(environment.env(), {{"createSequence", method<ModelHandle, create_sequence>},
                                                                          {"memory", method<ModelHandle, memory>},
                                                                          {"stats", method<ModelHandle, stats>},
                                                                          {"device", method<ModelHandle, device>},
                                                                          {"close", async_method<ModelHandle, close>}});
}

napi_value load(napi_env env, napi_callback_info raw) noexcept {
  return promised(env, [&] { return start_load(Napi::CallbackInfo(env, raw)); });
}

}  // namespace chai::addon
