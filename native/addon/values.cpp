// JS values <-> C++ values; see values.h.
#include "values.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>

namespace chai::addon {
namespace {

constexpr size_t shared_from = size_t{64} << 10;  // bytes; below, copying costs less than an external buffer and its finalizer

std::string text_of(double number) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.17g", number);
  return text;
}

template <typename Element>
std::vector<Element> elements(const Napi::Value& value, napi_typedarray_type wanted, const char* type_name, const std::string& name,
                              Code code) {
  bool typed = false;
  napi_typedarray_type type{};
  size_t length = 0;
  void* data = nullptr;
  if (napi_is_typedarray(value.Env(), value, &typed) != napi_ok || !typed ||
      napi_get_typedarray_info(value.Env(), value, &type, &length, &data, nullptr, nullptr) != napi_ok || type != wanted)
    refuse(code, name, std::string("a ") + type_name, value);
  std::vector<Element> copy(data ? length : 0);
  if (!copy.empty()) std::memcpy(copy.data(), data, copy.size() * sizeof(Element));
  return copy;
}

}  // namespace

std::string shown(const Napi::Value& value) {
  switch (value.IsEmpty() ? napi_undefined : value.Type()) {
    case napi_undefined: return "undefined";
    case napi_null: return "null";
    case napi_boolean: return value.As<Napi::Boolean>().Value() ? "true" : "false";
    case napi_number: return text_of(value.As<Napi::Number>().DoubleValue());
    case napi_string: {
      const std::string text = value.As<Napi::String>().Utf8Value();
      return text.size() <= 60 ? "'" + text + "'" : "a string of " + std::to_string(text.size()) + " bytes";
    }
    case napi_function: return "a function";
    case napi_symbol: return "a symbol";
    case napi_bigint: return "a bigint";
    default: return "an object";
  }
}

void refuse(Code code, const std::string& name, const std::string& expected, const Napi::Value& got) {
  throw Error(code, name + " must be " + expected + ", but is " + shown(got));
}

int64_t to_integer(const Napi::Value& value, const std::string& name, Code code, int64_t least, int64_t most) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : std::nan("");
  if (!(number >= double(least) && number <= double(most)) || number != std::floor(number))
    refuse(code, name, "an integer from " + std::to_string(least) + " to " + std::to_string(most), value);
  return int64_t(number);
}

double to_number(const Napi::Value& value, const std::string& name, Code code, double least, double most) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : std::nan("");
  if (!(number >= least && number <= most)) refuse(code, name, "a number from " + text_of(least) + " to " + text_of(most), value);
  return number;
}

std::string to_text(const Napi::Value& value, const std::string& name, Code code) {
  if (!value.IsString()) refuse(code, name, "a string", value);
  std::string text = value.As<Napi::String>().Utf8Value();
  if (text.find('\0') != std::string::npos) refuse(code, name, "a string without NUL characters", value);
  return text;
}

Napi::Array to_array(const Napi::Value& value, const std::string& name, Code code, uint32_t longest) {
  if (!value.IsArray()) refuse(code, name, "an array", value);
  const Napi::Array array = value.As<Napi::Array>();
  if (array.Length() > longest)
    throw Error(code, name + " has " + std::to_string(array.Length()) + " entries, allowed are at most " + std::to_string(longest));
  return array;
}

std::vector<int> to_integers(const Napi::Value& value, const std::string& name, Code code, int64_t least, int64_t most) {
  const Napi::Array array = to_array(value, name, code, 1 << 16);
  std::vector<int> integers;
  for (uint32_t i = 0, length = array.Length(); i < length; ++i) {
    const Napi::HandleScope scope(value.Env());
    integers.push_back(int(to_integer(array.Get(i), name + "[" + std::to_string(i) + "]", code, least, most)));
  }
  return integers;
}

std::vector<int32_t> to_int32s(const Napi::Value& value, const std::string& name, Code code) {
  return elements<int32_t>(value, napi_int32_array, "Int32Array", name, code);
}
std::vector<float> to_float32s(const Napi::Value& value, const std::string& name, Code code) {
  return elements<float>(value, napi_float32_array, "Float32Array", name, code);
}
std::vector<double> to_float64s(const Napi::Value& value, const std::string& name, Code code) {
  return elements<double>(value, napi_float64_array, "Float64Array", name, code);
}

Fields::Fields(const Napi::Value& value, std::string name, Code code) : name_(std::move(name)), code_(code) {
  if (!value.IsObject() || value.IsFunction()) refuse(code, name_, "an object", value);
  object_ = value.As<Napi::Object>();
}

bool Fields::flag(const char* field) const {
  const Napi::Value value = get(field);
  if (!value.IsBoolean()) refuse(code_, name(field), "true or false", value);
  return value.As<Napi::Boolean>().Value();
}

Napi::Int32Array int32_array(Napi::Env env, const std::vector<int32_t>& values) {
  Napi::Int32Array array = Napi::Int32Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(int32_t));
  return array;
}

namespace {

template <typename Element>
Napi::Value shared_array(Napi::Env env, std::vector<Element> values) {
  using Array = Napi::TypedArrayOf<Element>;
  const size_t bytes = values.size() * sizeof(Element);
  if (bytes >= shared_from) {
    auto owner = std::make_unique<std::vector<Element>>(std::move(values));
    const auto finalize = [](napi_env, void*, void* hint) { delete static_cast<std::vector<Element>*>(hint); };
    napi_value buffer = nullptr;
    const napi_status status = napi_create_external_arraybuffer(env, owner->data(), bytes, finalize, owner.get(), &buffer);
    if (status == napi_ok) {
      const size_t count = owner.release()->size();
      return Array::New(env, count, Napi::ArrayBuffer(env, buffer), 0);
    }
    if (status != napi_no_external_buffers_allowed) throw Napi::Error::New(env);
    values = std::move(*owner);
  }
  Array array = Array::New(env, values.size());
  if (bytes > 0) std::memcpy(array.Data(), values.data(), bytes);
  return array;
}

}  // namespace

Napi::Value float32_array(Napi::Env env, std::vector<float> values) { return shared_array(env, std::move(values)); }
Napi::Value float64_array(Napi::Env env, std::vector<double> values) { return shared_array(env, std::move(values)); }

Napi::Array number_array(Napi::Env env, const std::vector<int>& values) {
  Napi::Array array = Napi::Array::New(env, values.size());
  for (uint32_t i = 0; i < values.size(); ++i) array.Set(i, values[i]);
  return array;
}

}  // namespace chai::addon
