// The one place that includes napi.h, and the way from C++ exceptions to JS errors. In: any exception. Out: an Error with a stable `code`.
#pragma once
#define NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS  // a worker being terminated cannot throw; without this napi.h ends the process
#include <napi.h>

#include <exception>

#include "../error.h"

namespace chai::addon {

/// A JS Error with `code`; an exception that came out of JS passes unchanged. Null only while the environment goes down.
napi_value error_value(napi_env env, const std::exception_ptr& error) noexcept;

/// Runs `body` where only JS exceptions may leave; what it throws is thrown in JS.
template <typename Body>
napi_value guarded(napi_env env, Body&& body) noexcept {
  try {
    return body();
  } catch (...) {
    if (napi_value error = error_value(env, std::current_exception())) napi_throw(env, error);
    return nullptr;
  }
}

/// The same for functions that return a promise: what `body` throws rejects it.
template <typename Body>
napi_value promised(napi_env env, Body&& body) noexcept {
  try {
    return body();
  } catch (...) {
    napi_value error = error_value(env, std::current_exception()), promise = nullptr;
    napi_deferred deferred;
    if (error && napi_create_promise(env, &deferred, &promise) == napi_ok) napi_reject_deferred(env, deferred, error);
    return promise;
  }
}

}  // namespace chai::addon
