// NativeModel of lib/binding.ts: a loaded engine as a JS object. In: load options, plans. Out: promises, sequences, numbers.
#pragma once
#include <memory>

#include "environment.h"

namespace chai::addon {

/// A loaded engine as the model object and its sequences share it; JS thread only. When the last of them goes, the engine is retired.
class OpenModel {
 public:
  OpenModel(Environment& environment, std::shared_ptr<Engine> engine, Config config);
  OpenModel(const OpenModel&) = delete;
  OpenModel& operator=(const OpenModel&) = delete;
  ~OpenModel();

  /// Throws closed once close() was called.
  Engine& engine() const;
  const std::shared_ptr<Engine>& shared() const { return engine_; }
  const Config& config() const { return config_; }
  Environment& environment() const { return *environment_; }
  bool closing() const { return closing_; }
  void set_closing() { closing_ = true; }
  /// Tells V8 how many bytes the engine holds now: weights, step buffers, pages in use.
  void report_memory() noexcept;

 private:
  void report(int64_t bytes) noexcept;

  const std::shared_ptr<Environment> environment_;
  std::shared_ptr<Engine> engine_;
  const Config config_;
  bool closing_ = false;
  int64_t reported_ = 0;  // bytes V8 knows of
};

void define_model_class(Environment& environment);
/// load() of lib/binding.ts.
napi_value load(napi_env env, napi_callback_info info) noexcept;

}  // namespace chai::addon
