// The logits of a model that another program wrote, for test/gpu/reference.py. In: FILE, a text of numbers `name value` up to a line `end`,
// and FILE.bin, float32 tensors one after another in the order of `tensors_of`. Out: FILE.logits, float32 [ids][vocabulary].
#include <cmath>
#include <fstream>
#include <future>
#include <map>
#include <string>

#include "bench.h"
#include "engine.h"
#include "error.h"
#include "gpu.h"

namespace chai::bench {
namespace {

struct Description {
  std::map<std::string, double> numbers;
  std::vector<int32_t> ids;

  explicit Description(const std::string& path) {
    std::ifstream file(path);
    std::string name;
    double value = 0;
    while (file >> name && name != "end" && file >> value) {
      if (name == "id")
        ids.push_back(int32_t(value));
      else
        numbers[name] = value;
    }
    if (name != "end") throw Error(Code::option_invalid, path + " does not end in `end`");
  }
  int whole(const char* name) const { return int(numbers.at(name)); }
};

Config config_of(const Description& d) {
  Config c;
  c.layers = d.whole("layers"), c.heads = d.whole("heads"), c.key_value_heads = d.whole("keyValueHeads"), c.head_dim = d.whole("headDim");
  c.hidden = c.embedding = d.whole("hidden"), c.intermediate = d.whole("intermediate"), c.vocabulary = d.whole("vocabulary");
  c.context = 4096;
  c.norm_epsilon = float(d.numbers.at("epsilon"));
  c.attention_scale = 1 / std::sqrt(float(c.head_dim));
  for (int i = 0; i < c.head_dim / 2; ++i) c.rotary_frequencies.push_back(float(std::pow(d.numbers.at("theta"), -2.0 * i / c.head_dim)));
  return c;
}

/// Embedding, each layer (norm, q, k, v, o, norm, gate, up, down), final norm, output.
LoadOptions tensors_of(const Config& c, const std::string& path) {
  LoadOptions load;
  load.config = c, load.files = {path};
  uint64_t offset = 0;
  const auto next = [&](int rows, int columns) {
    const FileTensor tensor{0, offset, Element::float32, rows, columns};
    offset += uint64_t(rows) * uint64_t(columns) * sizeof(float);
    return tensor;
  };
  load.token_embedding = next(c.vocabulary, c.hidden);
  for (int i = 0; i < c.layers; ++i) {
    LayerTensors layer;
    layer.attention_norm = next(1, c.hidden);
    layer.query = next(c.query_width(), c.hidden), layer.key = next(c.key_value_width(), c.hidden);
    layer.value = next(c.key_value_width(), c.hidden), layer.attention_output = next(c.hidden, c.query_width());
    layer.feed_forward_norm = next(1, c.hidden);
    layer.gate = next(c.intermediate, c.hidden), layer.up = next(c.intermediate, c.hidden), layer.down = next(c.hidden, c.intermediate);
    load.layers.push_back(layer);
  }
  load.final_norm = next(1, c.hidden), load.output = next(c.vocabulary, c.hidden);
  return load;
}

}  // namespace

int write_logits(const std::string& path, const cuda::DeviceFacts& device) {
  const Description description(path);
  LoadOptions load = tensors_of(config_of(description), path + ".bin");
  load.cache_type = Element::float16, load.cache_tokens = 4096, load.device = "cuda:" + std::to_string(device.index);
  CudaOptions options;
  options.device = device.index;
  const auto engine = Engine::load(load, {}, make_cuda_backend(options));
  const auto session = engine->open(dense_plan(load.config));
  std::promise<EvaluateOutcome> promise;
  auto future = promise.get_future();
  const auto job = session->evaluate(description.ids, EvaluateResult::all, [&](EvaluateOutcome o) { promise.set_value(std::move(o)); });
  const EvaluateOutcome outcome = future.get();
  engine->close();
  if (outcome.error) std::rethrow_exception(outcome.error);
  std::ofstream file(path + ".logits", std::ios::binary);
  file.write(reinterpret_cast<const char*>(outcome.values.data()), std::streamsize(outcome.values.size() * sizeof(float)));
  std::printf("%zu logits in %s.logits\n", outcome.values.size(), path.c_str());
  return file ? 0 : 1;
}

}  // namespace chai::bench
