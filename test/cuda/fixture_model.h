// The models and reference numbers of test/fixtures as native tests load them, read apart from lib/. In: a fixture's name. Out:
// LoadOptions, head plans, prompts, the logits of `transformers` in float32 (or of the clustered reference in float64).
#pragma once
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "engine.h"
#include "json.h"

namespace chai {

/// test/fixtures, from the working directory or from where this file was compiled.
inline std::filesystem::path fixture_folder() {
  namespace fs = std::filesystem;
  const fs::path wanted = fs::path("test") / "fixtures";
  for (fs::path at : {fs::current_path(), fs::absolute(fs::path(__FILE__)).parent_path()})
    for (; at.has_relative_path(); at = at.parent_path())
      if (fs::exists(at / wanted)) return at / wanted;
  throw std::runtime_error("test/fixtures is not to be found: run the tests in the project's folder");
}

inline std::string text_of(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + file.string());
  return {std::istreambuf_iterator<char>(in), {}};
}
inline Json json_of(const std::filesystem::path& file) { return JsonReader(text_of(file)).document(); }
inline std::vector<float> floats_of(const std::filesystem::path& file) {
  const std::string bytes = text_of(file);
  std::vector<float> out(bytes.size() / sizeof(float));
  std::copy(bytes.begin(), bytes.begin() + std::ptrdiff_t(out.size() * sizeof(float)), reinterpret_cast<char*>(out.data()));
  return out;
}

/// Tensors by name over all files of a model.
class FixtureTensors {
 public:
  std::vector<std::string> files;

  explicit FixtureTensors(const std::filesystem::path& folder) {
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      if (entry.path().extension() == ".safetensors") add(entry.path().string());
  }
  FileTensor get(const std::string& name) const {
    const auto at = tensors_.find(name);
    return at == tensors_.end() ? FileTensor{} : at->second;
  }

 private:
  void add(const std::string& file) {
    std::ifstream in(file, std::ios::binary);
    uint64_t length = 0;
    in.read(reinterpret_cast<char*>(&length), sizeof length);  // little-endian, as every machine this runs on
    std::string header(size_t(length), ' ');
    in.read(header.data(), std::streamsize(length));
    for (const auto& [name, value] : JsonReader(header).document().members) {
      if (name == "__metadata__") continue;
      FileTensor t;
      t.file = int(files.size()), t.offset = 8 + length + uint64_t(value["data_offsets"].list.at(0).number);
      const std::string& type = value["dtype"].text;
      t.type = type == "F32" ? Element::float32 : type == "F16" ? Element::float16 : Element::bfloat16;
      const std::vector<int> shape = value["shape"].integers();
      t.rows = shape.size() == 2 ? shape[0] : 1, t.columns = shape.back();
      tensors_[name] = t;
    }
    files.push_back(file);
  }
  std::map<std::string, FileTensor> tensors_;
};

/// transformers' inverse frequencies: plain, `linear`, `llama3`.
inline std::vector<float> fixture_frequencies(const Json& json, int head_dim) {
  const Json none;
  const Json& rope = json.has("rope_scaling") ? json["rope_scaling"] : json.has("rope_parameters") ? json["rope_parameters"] : none;
  const double theta = rope.number_or("rope_theta", json.number_or("rope_theta", 10000)), factor = rope.number_or("factor", 1);
  const bool llama3 = rope.has("rope_type") && rope["rope_type"].text == "llama3";
  std::vector<float> out;
  for (int i = 0; i < head_dim; i += 2) {
    const double plain = std::pow(theta, -double(i) / head_dim);
    if (!llama3) {
      out.push_back(float(plain / factor));
      continue;
    }
    const double low = rope["low_freq_factor"].number, high = rope["high_freq_factor"].number;
    const double turns = rope["original_max_position_embeddings"].number * plain / (2 * 3.14159265358979323846);
    const double kept = std::min(1.0, std::max(0.0, (turns - low) / (high - low)));  // share that is not stretched
    out.push_back(float(plain * (kept + (1 - kept) / factor)));
  }
  return out;
}

struct FixtureModel {
  LoadOptions options;
  Element stored = Element::float32;

  explicit FixtureModel(const std::filesystem::path& folder) : json_(json_of(folder / "config.json")), tensors_(folder) {
    opt_ = json_["model_type"].text == "opt";
    Config& c = options.config;
    c.layers = json_.count("num_hidden_layers"), c.heads = json_.count("num_attention_heads");
    c.key_value_heads = int(json_.number_or("num_key_value_heads", c.heads));
    c.hidden = json_.count("hidden_size"), c.head_dim = int(json_.number_or("head_dim", c.hidden / c.heads));
    c.embedding = int(json_.number_or("word_embed_proj_dim", c.hidden));
    c.intermediate = json_.count(opt_ ? "ffn_dim" : "intermediate_size");
    c.vocabulary = json_.count("vocab_size"), c.context = json_.count("max_position_embeddings");
    c.attention_scale = 1 / std::sqrt(float(c.head_dim));
    c.sliding_window = int(json_.number_or("sliding_window", 0));
    const std::string activation = json_[opt_ ? "activation_function" : "hidden_act"].text;
    c.activation = activation == "relu" ? Activation::relu : activation == "gelu" ? Activation::gelu : Activation::silu;
    if (opt_) {
      c.norm = NormKind::layer, c.gated = false, c.position_offset = 2;
      c.norm_placement = json_["do_layer_norm_before"].number ? NormPlacement::before : NormPlacement::after;
    } else {
      c.norm_epsilon = float(json_["rms_norm_eps"].number);
      c.rotary_frequencies = fixture_frequencies(json_, c.head_dim);
    }
    find_tensors();
    stored = options.token_embedding.type;
    options.files = tensors_.files;
    options.cache_tokens = 1024;
  }

 private:
  void find_tensors() {
    const std::string root = opt_ ? "model.decoder." : "model.";
    LoadOptions& o = options;
    o.token_embedding = tensors_.get(root + "embed_tokens.weight");
    o.final_norm = tensors_.get(root + (opt_ ? "final_layer_norm.weight" : "norm.weight"));
    if (opt_) {
      o.position_embedding = tensors_.get(root + "embed_positions.weight");
      o.embedding_projection = tensors_.get(root + "project_in.weight");
      o.output_projection = tensors_.get(root + "project_out.weight");
      o.final_norm_bias = tensors_.get(root + "final_layer_norm.bias");
    }
    const FileTensor head = tensors_.get("lm_head.weight");
    o.output = head.file < 0 ? o.token_embedding : head;
    for (int i = 0; i < o.config.layers; ++i) {
      const std::string at = root + "layers." + std::to_string(i) + ".";
      LayerTensors t;
      const auto pair = [&](const std::string& name, FileTensor& weight, FileTensor& bias) {
        weight = tensors_.get(at + name + ".weight"), bias = tensors_.get(at + name + ".bias");
      };
      pair(opt_ ? "self_attn_layer_norm" : "input_layernorm", t.attention_norm, t.attention_norm_bias);
      pair(opt_ ? "final_layer_norm" : "post_attention_layernorm", t.feed_forward_norm, t.feed_forward_norm_bias);
      pair("self_attn.q_proj", t.query, t.query_bias), pair("self_attn.k_proj", t.key, t.key_bias);
      pair("self_attn.v_proj", t.value, t.value_bias);
      pair(opt_ ? "self_attn.out_proj" : "self_attn.o_proj", t.attention_output, t.attention_output_bias);
      pair("mlp.gate_proj", t.gate, t.gate_bias);
      pair(opt_ ? "fc1" : "mlp.up_proj", t.up, t.up_bias), pair(opt_ ? "fc2" : "mlp.down_proj", t.down, t.down_bias);
      o.layers.push_back(t);
    }
  }

  Json json_;
  FixtureTensors tensors_;
  bool opt_ = false;
};

/// A prompt and what must come out.
struct FixtureCase {
  std::string model;
  std::vector<int32_t> prompt, greedy;
  std::vector<float> margins, logits;
  Json json;
};
inline FixtureCase read_case(const std::filesystem::path& without_extension) {
  FixtureCase out;
  std::filesystem::path file = without_extension;
  out.json = json_of(file.replace_extension(".json"));
  out.logits = floats_of(file.replace_extension(".bin"));
  out.prompt = out.json["prompt"].integers();
  if (out.json.has("model")) out.model = out.json["model"].text;
  if (out.json.has("greedy")) {
    out.greedy = out.json["greedy"].integers();
    for (const Json& margin : out.json["margins"].list) out.margins.push_back(float(margin.number));
  }
  return out;
}

/// A head plan as chai-llm/head-plan@1 writes it.
inline HeadPlan fixture_plan(const Json& json, const Config& config) {
  HeadPlan plan;
  const std::string method = json["method"].text;
  plan.method = method == "chai" ? Method::chai : method == "explicit" ? Method::explicit_map : Method::chai_static;
  plan.warmup_start = int(json.number_or("warmupStart", 0)), plan.warmup_tokens = int(json.number_or("warmupTokens", 5));
  const bool average = json.has("clustering") && json["clustering"].text == "average-linkage-cosine";
  for (const Json& layer : json["layers"].list) {
    PlanLayer out;
    if (plan.method == Method::chai) {
      out.rule.method = average ? Clustering::average_linkage_cosine : Clustering::kmeans;
      out.rule.clusters = layer.count("clusters");
    } else if (plan.method == Method::chai_static) {
      out.heads = clustered_heads(config, int(plan.layers.size()), {layer["clusterOf"].integers(), layer["representatives"].integers()});
    } else {
      const Json& map = layer["map"];
      out.heads = {map.count("scoresFrom"),    map["scoreOfQuery"].integers(), map["queryOfScore"].integers(), map["keyOfScore"].integers(),
                   map["keptKeys"].integers(), map["valueOfQuery"].integers(), map["keptValues"].integers()};
    }
    plan.layers.push_back(out);
  }
  return plan;
}

}  // namespace chai
