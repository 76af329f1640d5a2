// NativeGeneration: tokens are pulled, the engine only knocks when somebody waits; see session_object.h.
#include "job.h"
#include "session_object.h"
#include "values.h"
#include "wrap.h"

namespace chai::addon {
namespace {

/// One generation, and the letter that the engine posts when tokens are ready. One letter serves all tokens: none is allocated a token.
class Pull : public Letter, public std::enable_shared_from_this<Pull> {
 public:
  Pull(std::shared_ptr<OpenSequence> sequence, std::vector<int32_t> ids, GenerateOptions options)
      : logprobs_(options.sampling.logprobs), mailbox_(sequence->model->environment().mailbox()), sequence_(std::move(sequence)) {
    ids_ = std::move(ids);
    options_ = std::move(options);
  }
  void start() {
    // Weak: the engine keeps this function, and the generation keeps what the engine works on.
    const auto ready = [weak = weak_from_this()] {
      if (const std::shared_ptr<Pull> pull = weak.lock()) pull->mailbox_->post(pull);
    };
    generation_ = sequence_->open().generate(std::move(ids_), std::move(options_), ready);
  }

  Environment& environment() const { return sequence_->model->environment(); }
  napi_value next(Napi::Env env);
  napi_value stop(int delivered);
  Timings timings() const { return generation_->timings(); }
  /// The JS object is gone: nobody will pull again.
  void abandon() noexcept;

  void deliver(Napi::Env env) override;
  void drop() noexcept override;

 private:
  bool over() const { return finished_ || failure_; }
  /// Settles `deferred` if there is something to settle it with.
  bool settle(Napi::Env env, napi_deferred deferred);
  Napi::Object to_object(Napi::Env env, const TokenBatch& batch);

  const bool logprobs_;
  const std::shared_ptr<Mailbox> mailbox_;
  std::vector<int32_t> ids_;  // until start()
  GenerateOptions options_;   // until start()
  // JS thread only:
  std::shared_ptr<OpenSequence> sequence_;
  std::shared_ptr<Generation> generation_;
  napi_deferred waiting_ = nullptr;
  std::exception_ptr failure_;  // came together with tokens: the next pull rejects with it
  bool finished_ = false, stopped_ = false, abandoned_ = false;
  int taken_ = 0;
};

napi_value Pull::next(Napi::Env env) {
  if (waiting_) throw Error(Code::session_busy, "next() was called while another next() waits; await that one first");
  napi_value promise = nullptr;
  napi_deferred deferred = nullptr;
  require(env, napi_create_promise(env, &deferred, &promise));
  if (settle(env, deferred)) return promise;
  environment().outstanding().add(shared_from_this());
  waiting_ = deferred;
  return promise;
}

bool Pull::settle(Napi::Env env, napi_deferred deferred) {
  napi_value value = nullptr, error = nullptr;
  try {
    sequence_->open();
    if (stopped_) throw Error(Code::aborted, "the generation was stopped; start a new one");
    if (failure_) std::rethrow_exception(failure_);
    TokenBatch batch = generation_->take();
    if (batch.error) failure_ = batch.error;
    if (batch.ids.empty() && failure_) std::rethrow_exception(failure_);
    if (batch.ids.empty() && batch.finish == Finish::none) return false;
    taken_ += int(batch.ids.size());
    finished_ = batch.finish != Finish::none;
    value = to_object(env, batch);
  } catch (...) {
    error = error_value(env, std::current_exception());
  }
  if (over()) sequence_->model->report_memory();
  // A refusal means that the environment goes down: nobody waits any more.
  if (value)
    napi_resolve_deferred(env, deferred, value);
  else if (error)
    napi_reject_deferred(env, deferred, error);
  return true;
}

Napi::Object Pull::to_object(Napi::Env env, const TokenBatch& batch) {
  Napi::Object tokens = Napi::Object::New(env);
  tokens.Set("ids", int32_array(env, batch.ids));
  tokens.Set("logprobs", logprobs_ ? float32_array(env, batch.logprobs) : environment().no_floats.Value());
  if (batch.finish != Finish::none) tokens.Set("finish", batch.finish == Finish::stop ? "stop" : "length");
  if (batch.finish == Finish::stop) tokens.Set("stopToken", batch.stop_token);
  return tokens;
}

void Pull::deliver(Napi::Env env) {
  if (!waiting_) return;
  const napi_deferred deferred = std::exchange(waiting_, nullptr);
  if (!settle(env, deferred)) {
    waiting_ = deferred;
    return;
  }
  const std::shared_ptr<Pull> self = shared_from_this();
  environment().outstanding().remove(*this);
  if (abandoned_) abandon();
}

napi_value Pull::stop(int delivered) {
  const auto job = Job<Nothing>::create(environment(), undefined);
  const napi_value promise = job->promise();
  job->ended = [sequence = sequence_] { sequence->model->report_memory(); };
  stopped_ = true;
  try {
    generation_->stop(delivered, [job] { Job<Nothing>::resolve(job, {}); });
  } catch (...) {
    Job<Nothing>::reject(job, std::current_exception());
  }
  return promise;
}

void Pull::abandon() noexcept {
  abandoned_ = true;
  if (waiting_) return;  // somebody awaits next() without holding the object: its promise comes first
  try {
    if (generation_ && !over() && !stopped_) generation_->stop(taken_, [] {});
  } catch (...) {  // closed meanwhile
  }
  drop();
}

void Pull::drop() noexcept {
  waiting_ = nullptr;
  generation_.reset();
  sequence_.reset();
}

/// What the JS object owns.
struct GenerationHandle {
  std::shared_ptr<Pull> pull;
  explicit GenerationHandle(std::shared_ptr<Pull> of) : pull(std::move(of)) {}
  GenerationHandle(const GenerationHandle&) = delete;
  GenerationHandle& operator=(const GenerationHandle&) = delete;
  ~GenerationHandle() { pull->abandon(); }
};

napi_value next(const Napi::CallbackInfo& info, GenerationHandle& handle) { return handle.pull->next(info.Env()); }

napi_value stop(const Napi::CallbackInfo& info, GenerationHandle& handle) {
  return handle.pull->stop(int(to_integer(info[0], "delivered", Code::option_invalid, 0, most_int)));
}

napi_value timings(const Napi::CallbackInfo& info, GenerationHandle& handle) {
  const Timings timings = handle.pull->timings();
  Napi::Object result = Napi::Object::New(info.Env());
  result.Set("promptMs", timings.prompt_ms);
  result.Set("promptTokens", timings.prompt_tokens);
  result.Set("decodeMs", timings.decode_ms);
  result.Set("decodeTokens", timings.decode_tokens);
  return result;
}

}  // namespace

template <>
struct ClassOf<GenerationHandle> {
  static constexpr napi_type_tag tag{0xc4a07d196b5e4f32, 0xa1e8730d5c96b24f};
  static constexpr const char* name = "NativeGeneration";
};

void define_generation_class(Environment& environment) {
  environment.generation_class = define_class<GenerationHandle>(environment.env(), {{"next", async_method<GenerationHandle, next>},
                                                                                    {"stop", async_method<GenerationHandle, stop>},
                                                                                    {"timings", method<GenerationHandle, timings>}});
}

napi_value make_generation(std::shared_ptr<OpenSequence> sequence, std::vector<int32_t> ids, GenerateOptions options) {
  Environment& environment = sequence->model->environment();
  auto handle = std::make_unique<GenerationHandle>(std::make_shared<Pull>(std::move(sequence), std::move(ids), std::move(options)));
  handle->pull->start();
  return wrap(environment, environment.generation_class, std::move(handle));
}

}  // namespace chai::addon
