// The `cancel` function that a job object (NativeCancel) is given. In: what to call once. Out: a JS function that is harmless when the job
// is over.
#pragma once
#include <functional>
#include <memory>

#include "values.h"

namespace chai::addon {

/// JS thread only. Cancelling before the job has started is remembered.
class Cancel {
 public:
  /// Sets job.cancel; may run JS code (setters).
  static std::shared_ptr<Cancel> install(const Napi::Value& job) {
    const Fields checked(job, "job", Code::option_invalid);
    auto cancel = std::make_shared<Cancel>();
    const auto call = [cancel](const Napi::CallbackInfo& info) {
      guarded(info.Env(), [&]() -> napi_value {
        cancel->call();
        return nullptr;
      });
    };
    job.As<Napi::Object>().Set("cancel", Napi::Function::New(checked.env(), call, "cancel"));
    return cancel;
  }
  void started(std::function<void()> action) {
    action_ = std::move(action);
    if (called_) call();
  }
  /// The job is over: lets go of it.
  void ended() { action_ = nullptr; }

 private:
  void call() {
    called_ = true;
    if (const auto action = std::exchange(action_, nullptr)) action();
  }
  std::function<void()> action_;
  bool called_ = false;
};

}  // namespace chai::addon
