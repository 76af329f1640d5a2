// The one exception of the engine. In: a stable code and a message that names cause and remedy. Out: what the addon turns into a ChaiError.
#pragma once
#include <stdexcept>
#include <string>
#include <utility>

namespace chai {

enum class Code {
  model_not_found,
  model_invalid,
  unsupported_model,
  plan_invalid,
  option_invalid,
  context_overflow,
  out_of_memory,
  device_unavailable,
  device_fault,
  session_busy,
  closed,
  aborted,
};

/// The code as users see it, e.g. "MODEL_INVALID".
inline const char* name_of(Code code) {
  switch (code) {
    case Code::model_not_found: return "MODEL_NOT_FOUND";
    case Code::model_invalid: return "MODEL_INVALID";
    case Code::unsupported_model: return "UNSUPPORTED_MODEL";
    case Code::plan_invalid: return "PLAN_INVALID";
    case Code::option_invalid: return "OPTION_INVALID";
    case Code::context_overflow: return "CONTEXT_OVERFLOW";
    case Code::out_of_memory: return "OUT_OF_MEMORY";
    case Code::device_unavailable: return "DEVICE_UNAVAILABLE";
    case Code::device_fault: return "DEVICE_FAULT";
    case Code::session_busy: return "SESSION_BUSY";
    case Code::closed: return "CLOSED";
    case Code::aborted: return "ABORTED";
  }
  return "DEVICE_FAULT";
}

class Error : public std::runtime_error {
 public:
  Error(Code code, const std::string& message) : std::runtime_error(message), code(code) {}
  Code code;
};

}  // namespace chai
