// The one asynchronous job: a promise that another thread settles, with the engine's handles kept alive meanwhile.
// In: a result or an exception, from any thread, once. Out: the promise, settled on the JS thread.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "environment.h"

namespace chai::addon {

struct Nothing {};  // result of a job that only ends

template <typename Result>
class Job : public Letter {
 public:
  /// On the JS thread, makes the JS value of a result. What it captures keeps the job's objects alive until then.
  using Convert = std::function<napi_value(Napi::Env, Result&)>;

  static std::shared_ptr<Job> create(Environment& environment, Convert convert) {
    std::shared_ptr<Job> job(new Job(environment, std::move(convert)));
    if (napi_create_promise(environment.env(), &job->deferred_, &job->promise_) != napi_ok)
      throw Error(Code::device_fault, "Node.js refused a promise");
    environment.outstanding().add(job);
    return job;
  }
  /// Only in the native call that created the job.
  napi_value promise() const { return promise_; }

  /// JS thread: called once when the job is over or dropped, after Convert and before the promise's reactions.
  std::function<void()> ended;
  /// JS thread: what a rejection carries instead of the work's own error.
  std::exception_ptr reason;

  /// The settling thread hands its reference over: the job's end is left to the JS thread.
  static void resolve(std::shared_ptr<Job> job, Result result) noexcept {
    job->result_.emplace(std::move(result));
    post(std::move(job));
  }
  static void reject(std::shared_ptr<Job> job, std::exception_ptr error) noexcept {
    job->error_ = std::move(error);
    post(std::move(job));
  }
  /// Runs `work` on a thread of its own and settles the job with what it returns or throws.
  static void run(std::shared_ptr<Job> job, Environment& environment, std::function<Result()> work) {
    try {
      environment.start([job, work = std::move(work)]() mutable {
        try {
          Result result = work();
          work = nullptr;
          resolve(std::move(job), std::move(result));
        } catch (...) {
          reject(std::move(job), std::current_exception());
        }
      });
    } catch (...) {
      reject(std::move(job), std::current_exception());
    }
  }

  void deliver(Napi::Env env) override {
    const std::shared_ptr<Environment> environment = environment_.lock();
    if (!environment) return;
    const auto convert = std::exchange(convert_, nullptr);
    const napi_deferred deferred = std::exchange(deferred_, nullptr);
    environment->outstanding().remove(*this);
    if (!deferred) return;
    napi_value value = nullptr, error = nullptr;
    try {
      if (error_) std::rethrow_exception(error_);
      value = convert(env, *result_);
    } catch (...) {
      error = error_value(env, reason ? reason : std::current_exception());
    }
    end();
    // A refusal means that the environment goes down: nobody waits any more.
    if (value)
      napi_resolve_deferred(env, deferred, value);
    else if (error)
      napi_reject_deferred(env, deferred, error);
  }

  void drop() noexcept override {
    deferred_ = nullptr;
    convert_ = nullptr;
    end();
  }

 private:
  Job(Environment& environment, Convert convert)
      : environment_(environment.weak_from_this()), mailbox_(environment.mailbox()), convert_(std::move(convert)) {}
  void end() noexcept {
    reason = nullptr;
    if (const auto last = std::exchange(ended, nullptr)) last();
  }
  static void post(std::shared_ptr<Job> job) noexcept {
    const std::shared_ptr<Mailbox> mailbox = job->mailbox_;
    mailbox->post(std::move(job));
  }

  const std::weak_ptr<Environment> environment_;
  const std::shared_ptr<Mailbox> mailbox_;
  napi_deferred deferred_ = nullptr;
  napi_value promise_ = nullptr;
  Convert convert_;
  std::optional<Result> result_;
  std::exception_ptr error_;
};

/// For Convert of a job without a result.
inline napi_value undefined(Napi::Env env, Nothing&) { return env.Undefined(); }

}  // namespace chai::addon
