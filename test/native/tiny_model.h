// A seeded random model in a temporary file, for tests of the engine. In: a config. Out: LoadOptions that load it.
#pragma once
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "engine.h"

namespace chai {

inline Config tiny_config(int layers = 3, int heads = 8, int key_value_heads = 8, int head_dim = 8) {
  Config c;
  c.layers = layers, c.heads = heads, c.key_value_heads = key_value_heads, c.head_dim = head_dim;
  c.hidden = c.embedding = 48, c.intermediate = 72, c.vocabulary = 97, c.context = 512;
  c.attention_scale = 1 / 2.8f;
  for (int i = 0; i < head_dim / 2; ++i) c.rotary_frequencies.push_back(1.0f / float(1 << i));
  return c;
}

class TinyModel {
 public:
  LoadOptions options;

  explicit TinyModel(const Config& config, unsigned seed = 1) : random_(seed) {
    char name[] = "/tmp/chai-tiny-XXXXXX";
    const int descriptor = mkstemp(name);
    close(descriptor);
    path_ = name;
    options.config = config;
    options.files = {path_};
    options.cache_tokens = 4096;
    const int d = config.hidden;
    options.token_embedding = tensor(config.vocabulary, d, 0.5f);
    options.output = tensor(config.vocabulary, d, 0.5f);
    options.final_norm = norm(d);
    if (config.norm == NormKind::layer) options.final_norm_bias = tensor(1, d, 0.1f);
    for (int i = 0; i < config.layers; ++i) options.layers.push_back(layer(config));
    std::ofstream(path_, std::ios::binary)
        .write(reinterpret_cast<const char*>(data_.data()), std::streamsize(data_.size() * sizeof(float)));
  }
  ~TinyModel() { std::remove(path_.c_str()); }

 private:
  LayerTensors layer(const Config& c) {
    LayerTensors t;
    t.attention_norm = norm(c.hidden), t.feed_forward_norm = norm(c.hidden);
    t.query = tensor(c.query_width(), c.hidden, 0.35f), t.key = tensor(c.key_value_width(), c.hidden, 0.35f);
    t.value = tensor(c.key_value_width(), c.hidden, 0.2f), t.attention_output = tensor(c.hidden, c.query_width(), 0.2f);
    if (c.norm == NormKind::layer) t.attention_norm_bias = tensor(1, c.hidden, 0.1f), t.feed_forward_norm_bias = tensor(1, c.hidden, 0.1f);
    if (c.gated) t.gate = tensor(c.intermediate, c.hidden, 0.2f);
    t.up = tensor(c.intermediate, c.hidden, 0.2f);
    t.down = tensor(c.hidden, c.intermediate, 0.2f);
    return t;
  }
  FileTensor norm(int width) {
    FileTensor t = tensor(1, width, 0.1f);
    for (size_t i = data_.size() - size_t(width); i < data_.size(); ++i) data_[i] += 1;
    return t;
  }
  FileTensor tensor(int rows, int columns, float deviation) {
    FileTensor t{0, data_.size() * sizeof(float), Element::float32, rows, columns};
    std::normal_distribution<float> normal(0, deviation);
    for (int i = 0; i < rows * columns; ++i) data_.push_back(normal(random_));
    return t;
  }

  std::mt19937 random_;
  std::string path_;
  std::vector<float> data_;
};

}  // namespace chai
