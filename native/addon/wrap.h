// C++ handles behind JS objects. In: a handle and its class. Out: a JS object that owns it, and methods that refuse every other `this`.
// Methods are plain functions on the prototype: one borrowed onto a foreign object finds no tag of its class there and throws.
#pragma once
#include <memory>
#include <string>

#include "environment.h"

namespace chai::addon {

/// Specialised for each handle: `static constexpr napi_type_tag tag; static constexpr const char* name;`
template <typename Handle>
struct ClassOf;

template <typename Handle>
Handle& unwrap(const Napi::CallbackInfo& info) {
  const Napi::Value self = info.This();
  bool tagged = false;
  void* handle = nullptr;
  if (self.IsObject() && napi_check_object_type_tag(info.Env(), self, &ClassOf<Handle>::tag, &tagged) == napi_ok && tagged &&
      napi_unwrap(info.Env(), self, &handle) == napi_ok && handle)
    return *static_cast<Handle*>(handle);
  throw Error(Code::option_invalid, std::string("this method was called on something that is not a ") + ClassOf<Handle>::name);
}

template <typename Handle, napi_value (*function)(const Napi::CallbackInfo&, Handle&)>
napi_value method(napi_env env, napi_callback_info raw) noexcept {
  return guarded(env, [&] {
    const Napi::CallbackInfo info(env, raw);
    return function(info, unwrap<Handle>(info));
  });
}

/// A method that returns a promise.
template <typename Handle, napi_value (*function)(const Napi::CallbackInfo&, Handle&)>
napi_value async_method(napi_env env, napi_callback_info raw) noexcept {
  return promised(env, [&] {
    const Napi::CallbackInfo info(env, raw);
    return function(info, unwrap<Handle>(info));
  });
}

inline void require(Napi::Env env, napi_status status) {
  if (status != napi_ok) throw Napi::Error::New(env);
}

struct MethodEntry {
  const char* name;
  napi_callback callback;
};

/// A class whose instances only this addon makes.
template <typename Handle>
Napi::FunctionReference define_class(Napi::Env env, std::initializer_list<MethodEntry> methods) {
  const auto construct = [](napi_env raw_env, napi_callback_info raw) -> napi_value {
    return guarded(raw_env, [&]() -> napi_value {
      const Napi::CallbackInfo info(raw_env, raw);
      if (info.IsConstructCall() && Environment::of(raw_env)->constructing) return info.This();
      throw Error(Code::option_invalid, std::string(ClassOf<Handle>::name) + " objects are made by their model, not with new");
    });
  };
  napi_value constructor = nullptr;
  require(env, napi_define_class(env, ClassOf<Handle>::name, NAPI_AUTO_LENGTH, construct, nullptr, 0, nullptr, &constructor));
  const Napi::Function function(env, constructor);
  const Napi::Value prototype = function.Get("prototype");
  for (const MethodEntry& entry : methods) {
    const napi_property_descriptor property{entry.name, nullptr, entry.callback, nullptr, nullptr, nullptr, napi_default_method, nullptr};
    require(env, napi_define_properties(env, prototype, 1, &property));
  }
  return Napi::Persistent(function);
}

/// The JS object that owns `handle` from now on; ~Handle runs on the JS thread once it is collected, and must not block.
template <typename Handle>
napi_value wrap(Environment& environment, const Napi::FunctionReference& constructor, std::unique_ptr<Handle> handle) {
  const Napi::Env env = environment.env();
  napi_value object = nullptr;
  environment.constructing = true;
  const napi_status status = napi_new_instance(env, constructor.Value(), 0, nullptr, &object);
  environment.constructing = false;
  require(env, status);
  const auto finalize = [](napi_env, void* data, void*) { delete static_cast<Handle*>(data); };
  require(env, napi_wrap(env, object, handle.get(), finalize, nullptr, nullptr));
  handle.release();
  require(env, napi_type_tag_object(env, object, &ClassOf<Handle>::tag));
  return object;
}

}  // namespace chai::addon
