// NativeSequence; see session_object.h.
#include "session_object.h"

#include "cancel.h"
#include "job.h"
#include "options.h"
#include "wrap.h"

namespace chai::addon {

Session& OpenSequence::open() const {
  model->engine();
  if (closing) throw Error(Code::closed, "the session is closed; create a new one");
  return *session;
}

namespace {

struct SequenceHandle {
  std::shared_ptr<OpenSequence> sequence;
  Napi::Reference<Napi::Promise> closed;  // of the first close()
};

napi_value evaluate(const Napi::CallbackInfo& info, SequenceHandle& handle) {
  using Values = std::vector<float>;
  const std::shared_ptr<OpenSequence> sequence = handle.sequence;
  sequence->open();  // closed comes before complaints about arguments
  std::vector<int32_t> ids = to_int32s(info[0], "ids", Code::option_invalid);
  const auto result = to_choice<EvaluateResult>(
      info[1], "result", Code::option_invalid,
      {{"none", EvaluateResult::none}, {"last", EvaluateResult::last}, {"all", EvaluateResult::all}, {"score", EvaluateResult::score}});
  const std::shared_ptr<Cancel> cancel = Cancel::install(info[2]);
  Session& session = sequence->open();  // a setter may have closed it
  const auto job = Job<Values>::create(sequence->model->environment(),
                                       [](Napi::Env env, Values& values) -> napi_value { return float32_array(env, std::move(values)); });
  const napi_value promise = job->promise();
  job->ended = [sequence, cancel] {
    cancel->ended();
    sequence->model->report_memory();
  };
  const auto done = [job](EvaluateOutcome outcome) {
    if (outcome.error)
      Job<Values>::reject(job, outcome.error);
    else
      Job<Values>::resolve(job, std::move(outcome.values));
  };
  try {
    cancel->started([work = session.evaluate(std::move(ids), result, done)] { work->cancel(); });
  } catch (...) {
    Job<Values>::reject(job, std::current_exception());
  }
  return promise;
}

napi_value generate(const Napi::CallbackInfo& info, SequenceHandle& handle) {
  const std::shared_ptr<OpenSequence> sequence = handle.sequence;
  sequence->open();
  std::vector<int32_t> ids = to_int32s(info[0], "ids", Code::option_invalid);
  return make_generation(sequence, std::move(ids), generate_options(info[1]));
}

napi_value tokens(const Napi::CallbackInfo& info, SequenceHandle& handle) {
  return int32_array(info.Env(), handle.sequence->open().tokens());
}

napi_value truncate(const Napi::CallbackInfo& info, SequenceHandle& handle) {
  Session& session = handle.sequence->open();
  session.truncate(int(to_integer(info[0], "length", Code::option_invalid, 0, most_int)));
  handle.sequence->model->report_memory();
  return info.Env().Undefined();
}

napi_value fork(const Napi::CallbackInfo&, SequenceHandle& handle) {
  return make_sequence(handle.sequence->model, handle.sequence->open().fork());
}

napi_value resolved_heads(const Napi::CallbackInfo& info, SequenceHandle& handle) {
  const std::optional<HeadMap> map = handle.sequence->open().head_maps();
  return map ? head_maps(info.Env(), *map) : info.Env().Undefined();
}

napi_value cache_bytes(const Napi::CallbackInfo& info, SequenceHandle& handle) {
  const CacheBytes bytes = handle.sequence->open().cache_bytes();
  Napi::Object result = Napi::Object::New(info.Env());
  set(result, "keys", bytes.keys);
  set(result, "values", bytes.values);
  set(result, "denseKeys", bytes.dense_keys);
  set(result, "denseValues", bytes.dense_values);
  return result;
}

/// On a thread: it waits for the step under way, and then computes.
napi_value head_gram(const Napi::CallbackInfo& info, SequenceHandle& handle) {
  using Values = std::vector<double>;
  const std::shared_ptr<OpenSequence> sequence = handle.sequence;
  sequence->open();
  const std::vector<int32_t> rows = to_int32s(info[0], "rows", Code::option_invalid);
  Environment& environment = sequence->model->environment();
  const auto job =
      Job<Values>::create(environment, [](Napi::Env env, Values& values) -> napi_value { return float64_array(env, std::move(values)); });
  const napi_value promise = job->promise();
  job->ended = [sequence] {};  // keeps it open meanwhile
  Job<Values>::run(job, environment, [session = sequence->session, rows] { return session->head_gram(rows); });
  return promise;
}

napi_value close(const Napi::CallbackInfo& info, SequenceHandle& handle) {
  if (!handle.closed.IsEmpty()) return handle.closed.Value();
  const std::shared_ptr<OpenSequence> sequence = handle.sequence;
  const auto job = Job<Nothing>::create(sequence->model->environment(), undefined);
  const napi_value promise = job->promise();
  handle.closed = Napi::Persistent(Napi::Promise(info.Env(), promise));
  sequence->closing = true;
  job->ended = [sequence] { sequence->model->report_memory(); };
  try {
    sequence->session->close([job] { Job<Nothing>::resolve(job, {}); });
  } catch (...) {
    Job<Nothing>::reject(job, std::current_exception());
  }
  return promise;
}

}  // namespace

template <>
struct ClassOf<SequenceHandle> {
  static constexpr napi_type_tag tag{0x0b86f1c3d7e24a95, 0x8f52c6e41d903b7c};
  static constexpr const char* name = "NativeSequence";
};

void define_sequence_class(Environment& environment) {
  environment.sequence_class = define_class<SequenceHandle>(environment.env(), {{"evaluate", async_method<SequenceHandle, evaluate>},
                                                                                {"generate", method<SequenceHandle, generate>},
                                                                                {"tokens", method<SequenceHandle, tokens>},
                                                                                {"truncate", method<SequenceHandle, truncate>},
                                                                                {"fork", method<SequenceHandle, fork>},
                                                                                {"headMaps", method<SequenceHandle, resolved_heads>},
                                                                                {"cacheBytes", method<SequenceHandle, cache_bytes>},
                                                                                {"headGram", async_method<SequenceHandle, head_gram>},
                                                                                {"close", async_method<SequenceHandle, close>}});
}

napi_value make_sequence(std::shared_ptr<OpenModel> model, std::shared_ptr<Session> session) {
  Environment& environment = model->environment();
  auto handle = std::make_unique<SequenceHandle>();
  handle->sequence = std::make_shared<OpenSequence>(std::move(model), std::move(session));
  return wrap(environment, environment.sequence_class, std::move(handle));
}

}  // namespace chai::addon
