// C++ exceptions as JS errors; see js.h.
#include "js.h"

#include <cstring>
#include <new>

namespace chai::addon {
namespace {

napi_value coded_error(napi_env env, Code code, const char* message) noexcept {
  napi_value code_value = nullptr, text = nullptr, error = nullptr;
  if (napi_create_string_utf8(env, name_of(code), NAPI_AUTO_LENGTH, &code_value) != napi_ok) return nullptr;
  if (napi_create_string_utf8(env, message, NAPI_AUTO_LENGTH, &text) != napi_ok) return nullptr;
  if (napi_create_error(env, code_value, text, &error) != napi_ok) return nullptr;
  return error;
}

}  // namespace

napi_value error_value(napi_env env, const std::exception_ptr& error) noexcept {
  try {
    std::rethrow_exception(error);
  } catch (const Napi::Error& thrown) {
    try {
      return thrown.Value();
    } catch (...) {
      return nullptr;
    }
  } catch (const Error& known) {
    return coded_error(env, known.code, known.what());
  } catch (const std::bad_alloc&) {
    return coded_error(env, Code::out_of_memory, "the machine has no memory left for this; close models or sessions, or ask for less");
  } catch (const std::exception& other) {
    return coded_error(env, Code::device_fault, other.what());
  } catch (...) {
    return coded_error(env, Code::device_fault, "an unknown error came out of the engine");
  }
}

}  // namespace chai::addon
