// JS values <-> C++ values. In: anything a caller may pass. Out: plain checked values, copied, so that no other thread ever sees a JS
// value; what has the wrong type or is out of range throws an Error that names the field. Reading may run JS code (getters).
#pragma once
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "js.h"

namespace chai::addon {

constexpr int64_t most_int = std::numeric_limits<int>::max();
constexpr int64_t most_safe = (int64_t{1} << 53) - 1;  // largest integer that a JS number holds exactly

/// A value as error messages show it; never runs JS code.
std::string shown(const Napi::Value& value);
[[noreturn]] void refuse(Code code, const std::string& name, const std::string& expected, const Napi::Value& got);

int64_t to_integer(const Napi::Value& value, const std::string& name, Code code, int64_t least, int64_t most);
double to_number(const Napi::Value& value, const std::string& name, Code code, double least, double most);
std::string to_text(const Napi::Value& value, const std::string& name, Code code);
/// An array of integers.
std::vector<int> to_integers(const Napi::Value& value, const std::string& name, Code code, int64_t least, int64_t most);
Napi::Array to_array(const Napi::Value& value, const std::string& name, Code code, uint32_t longest);
/// The elements of a typed array of exactly this element type; no other array type is converted.
std::vector<int32_t> to_int32s(const Napi::Value& value, const std::string& name, Code code);
std::vector<float> to_float32s(const Napi::Value& value, const std::string& name, Code code);
std::vector<double> to_float64s(const Napi::Value& value, const std::string& name, Code code);

template <typename Choice>
using Choices = std::initializer_list<std::pair<const char*, Choice>>;

/// One of a few strings.
template <typename Choice>
Choice to_choice(const Napi::Value& value, const std::string& name, Code code, Choices<Choice> choices) {
  const std::string given = value.IsString() ? value.As<Napi::String>().Utf8Value() : "";
  std::string expected;
  for (const auto& [text, chosen] : choices) {
    if (given == text) return chosen;
    expected += (expected.empty() ? "'" : ", '") + std::string(text) + "'";
  }
  refuse(code, name, "one of " + expected, value);
}

/// The fields of one JS object. Every complaint carries its code and the field's full name, like "config.layers".
class Fields {
 public:
  Fields(const Napi::Value& value, std::string name, Code code);

  Napi::Env env() const { return object_.Env(); }
  Code code() const { return code_; }
  Napi::Value get(const char* field) const { return object_.Get(field); }
  std::string name(const char* field) const { return name_ + "." + field; }
  int64_t integer(const char* field, int64_t least, int64_t most) const { return to_integer(get(field), name(field), code_, least, most); }
  int count(const char* field, int64_t least, int64_t most = most_int) const { return int(integer(field, least, most)); }
  double number(const char* field, double least, double most) const { return to_number(get(field), name(field), code_, least, most); }
  bool flag(const char* field) const;
  std::string text(const char* field) const { return to_text(get(field), name(field), code_); }
  std::vector<int> integers(const char* field) const { return to_integers(get(field), name(field), code_, 0, most_int); }
  Fields fields(const char* field) const { return {get(field), name(field), code_}; }

  template <typename Choice>
  Choice choice(const char* field, Choices<Choice> choices) const {
    return to_choice(get(field), name(field), code_, choices);
  }

 private:
  Napi::Object object_;
  std::string name_;
  Code code_;
};

Napi::Int32Array int32_array(Napi::Env env, const std::vector<int32_t>& values);
/// Hands a large vector's memory to JS without a copy where the platform allows it. V8 counts these bytes as external.
Napi::Value float32_array(Napi::Env env, std::vector<float> values);
Napi::Value float64_array(Napi::Env env, std::vector<double> values);
Napi::Array number_array(Napi::Env env, const std::vector<int>& values);
inline void set(Napi::Object& object, const char* field, uint64_t number) { object.Set(field, double(number)); }

}  // namespace chai::addon
