// Proves a Config; see config.h.
#include "config.h"

#include <cmath>
#include <string>

#include "error.h"

namespace chai {
namespace {

constexpr int64_t largest = int64_t{1} << 28;  // keeps every product of a size and an element count inside int64, most inside int

[[noreturn]] void fail(const char* field, const std::string& value, const std::string& rule) {
  throw Error(Code::model_invalid, std::string("config: ") + field + " is " + value + ", but must be " + rule);
}

void check_size(const char* field, int64_t value, int64_t most = largest) {
  if (value < 1 || value > most) fail(field, std::to_string(value), "1 to " + std::to_string(most));
}

void check_finite(const char* field, float value, bool positive) {
  if (!std::isfinite(value) || (positive && value <= 0)) fail(field, std::to_string(value), positive ? "finite and above 0" : "finite");
}

}  // namespace

void check(const Config& c) {
  check_size("layers", c.layers, 4096);
  check_size("heads", c.heads, 4096);
  check_size("key/value heads", c.key_value_heads, 4096);
  check_size("head size", c.head_dim, 4096);
  check_size("hidden size", c.hidden, 1 << 20);
  check_size("embedding size", c.embedding, 1 << 20);
  check_size("intermediate size", c.intermediate, 1 << 22);
  check_size("vocabulary size", c.vocabulary);
  check_size("context length", c.context);
  check_size("heads x head size", int64_t(c.heads) * c.head_dim, 1 << 20);
  if (c.heads % c.key_value_heads != 0)
    fail("key/value heads", std::to_string(c.key_value_heads), "a divisor of the " + std::to_string(c.heads) + " heads");
  check_finite("norm epsilon", c.norm_epsilon, true);
  check_finite("attention scale", c.attention_scale, true);
  check_finite("rotary scale", c.rotary_scale, true);
  if (c.sliding_window < 0) fail("sliding window", std::to_string(c.sliding_window), "0 (off) or more");
  if (c.position_offset < 0 || c.position_offset > 1 << 20) fail("position offset", std::to_string(c.position_offset), "0 to 2^20");
  if (c.rotary_frequencies.empty()) return;
  if (c.head_dim % 2 != 0 || int(c.rotary_frequencies.size()) != c.head_dim / 2)
    fail("number of rotary frequencies", std::to_string(c.rotary_frequencies.size()),
         "half the head size " + std::to_string(c.head_dim) + ", which must be even");
  for (const float frequency : c.rotary_frequencies) check_finite("rotary frequency", frequency, false);
}

}  // namespace chai
