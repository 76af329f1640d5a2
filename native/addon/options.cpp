// Option objects to structs; see options.h.
#include "options.h"

#include <cfloat>

namespace chai::addon {
namespace {

constexpr uint32_t most_layers = 4096, most_files = 4096;

Element element_of(const Fields& from, const char* field) {
  return from.choice<Element>(field, {{"float32", Element::float32}, {"float16", Element::float16}, {"bfloat16", Element::bfloat16}});
}

Config config_of(const Fields& from) {
  Config c;
  c.layers = from.count("layers", 1, most_layers);
  c.heads = from.count("heads", 1);
  c.key_value_heads = from.count("keyValueHeads", 1);
  c.head_dim = from.count("headDim", 1);
  c.hidden = from.count("hiddenSize", 1);
  c.embedding = from.count("embeddingSize", 1);
  c.intermediate = from.count("intermediateSize", 1);
  c.vocabulary = from.count("vocabularySize", 1);
  c.context = from.count("contextLength", 1);
  c.norm = from.choice<NormKind>("norm", {{"rms", NormKind::rms}, {"layer", NormKind::layer}});
  c.norm_epsilon = float(from.number("normEpsilon", 0, FLT_MAX));
  c.norm_placement = from.choice<NormPlacement>("normPlacement", {{"before", NormPlacement::before}, {"after", NormPlacement::after}});
  c.activation = from.choice<Activation>(
      "activation",
      {{"silu", Activation::silu}, {"relu", Activation::relu}, {"gelu", Activation::gelu}, {"gelu-tanh", Activation::gelu_tanh}});
  c.gated = from.flag("gatedFeedForward");
  c.attention_scale = float(from.number("attentionScale", -FLT_MAX, FLT_MAX));
  c.sliding_window = from.count("slidingWindow", 0);
  c.rotary_frequencies = to_float32s(from.get("rotaryFrequencies"), from.name("rotaryFrequencies"), Code::model_invalid);
  c.rotary_scale = float(from.number("rotaryScale", -FLT_MAX, FLT_MAX));
  c.position_offset = from.count("positionOffset", 0);
  return c;
}

/// A slot that is absent or undefined leaves the tensor out.
void read_tensor(const Fields& slots, const char* slot, int64_t files, FileTensor& tensor) {
  const Napi::HandleScope scope(slots.env());
  const Napi::Value value = slots.get(slot);
  if (value.IsUndefined()) return;
  const Fields from(value, slots.name(slot), slots.code());
  tensor.file = from.count("file", 0, files - 1);
  tensor.offset = uint64_t(from.integer("offset", 0, most_safe));
  tensor.type = element_of(from, "type");
  tensor.rows = from.integer("rows", 1, most_int);
  tensor.columns = from.integer("columns", 1, most_int);
}

void read_weights(const Fields& slots, LoadOptions& options) {
  const auto files = int64_t(options.files.size());
  read_tensor(slots, "tokenEmbedding", files, options.token_embedding);
  read_tensor(slots, "positionEmbedding", files, options.position_embedding);
  read_tensor(slots, "embeddingProjection", files, options.embedding_projection);
  read_tensor(slots, "finalNorm.weight", files, options.final_norm);
  read_tensor(slots, "finalNorm.bias", files, options.final_norm_bias);
  read_tensor(slots, "outputProjection", files, options.output_projection);
  read_tensor(slots, "output", files, options.output);
}

LayerTensors read_layer(const Fields& slots, int64_t files) {
  LayerTensors layer;
  const std::pair<const char*, FileTensor*> tensors[] = {
      {"attentionNorm.weight", &layer.attention_norm},
      {"attentionNorm.bias", &layer.attention_norm_bias},
      {"query.weight", &layer.query},
      {"query.bias", &layer.query_bias},
      {"key.weight", &layer.key},
      {"key.bias", &layer.key_bias},
      {"value.weight", &layer.value},
      {"value.bias", &layer.value_bias},
      {"attentionOutput.weight", &layer.attention_output},
      {"attentionOutput.bias", &layer.attention_output_bias},
      {"feedForwardNorm.weight", &layer.feed_forward_norm},
      {"feedForwardNorm.bias", &layer.feed_forward_norm_bias},
      {"gate.weight", &layer.gate},
      {"gate.bias", &layer.gate_bias},
      {"up.weight", &layer.up},
      {"up.bias", &layer.up_bias},
      {"down.weight", &layer.down},
      {"down.bias", &layer.down_bias},
  };
  for (const auto& [slot, tensor] : tensors) read_tensor(slots, slot, files, *tensor);
  return layer;
}

LayerHeads explicit_heads(const Fields& from) {
  LayerHeads heads;
  heads.scores_from = from.count("scoresFrom", 0);
  heads.score_of_query = from.integers("scoreOfQuery");
  heads.query_of_score = from.integers("queryOfScore");
  heads.key_of_score = from.integers("keyOfScore");
  heads.kept_keys = from.integers("keptKeys");
  heads.value_of_query = from.integers("valueOfQuery");
  heads.kept_values = from.integers("keptValues");
  return heads;
}

/// Proven here because the tables are derived from it before the engine's check can see them.
Membership static_membership(const Fields& from, const Config& config) {
  const Membership membership{from.integers("clusterOf"), from.integers("representatives")};
  const int clusters = from.count("clusters", 1, config.heads);
  const auto fail = [](const std::string& what) { throw Error(Code::plan_invalid, what); };
  if (int(membership.cluster_of.size()) != config.heads)
    fail(from.name("clusterOf") + " has " + std::to_string(membership.cluster_of.size()) + " entries, the model " +
         std::to_string(config.heads) + " heads");
  if (int(membership.representatives.size()) != clusters)
    fail(from.name("representatives") + " has " + std::to_string(membership.representatives.size()) + " entries, but clusters is " +
         std::to_string(clusters));
  for (int head = 0; head < config.heads; ++head)
    if (membership.cluster_of[head] >= clusters)
      fail(from.name("clusterOf") + "[" + std::to_string(head) + "] is " + std::to_string(membership.cluster_of[head]) +
           ", allowed are 0 to " + std::to_string(clusters - 1));
  for (int cluster = 0; cluster < clusters; ++cluster) {
    const int head = membership.representatives[cluster];  // with keyHeads it may belong to another cluster
    if (head >= config.heads)
      fail(from.name("representatives") + "[" + std::to_string(cluster) + "] is " + std::to_string(head) + ", allowed are 0 to " +
           std::to_string(config.heads - 1));
  }
  return membership;
}

PlanLayer plan_layer(const Fields& from, const HeadPlan& plan, const ClusterRule& rule, const Config& config, int layer) {
  PlanLayer result;
  result.rule = rule;
  switch (plan.method) {
    case Method::dense: result.heads = identity_heads(config, layer); break;
    case Method::chai:
      result.rule.clusters = from.count("clusters", 1, config.heads);
      result.rule.key_heads = from.count("keyHeads", 0, config.key_value_heads);
      break;
    case Method::chai_static: result.heads = clustered_heads(config, layer, static_membership(from, config)); break;
    case Method::explicit_map: result.heads = explicit_heads(from.fields("map")); break;
  }
  return result;
}

}  // namespace

LoadOptions load_options(const Napi::Value& value) {
  const Fields from(value, "options", Code::option_invalid);
  LoadOptions options;
  options.config = config_of(Fields(from.get("config"), "config", Code::model_invalid));
  const Napi::Array files = to_array(from.get("files"), "options.files", Code::option_invalid, most_files);
  for (uint32_t i = 0, count = files.Length(); i < count; ++i)
    options.files.push_back(to_text(files.Get(i), "options.files[" + std::to_string(i) + "]", Code::option_invalid));
  read_weights(Fields(from.get("weights"), "weights", Code::model_invalid), options);
  const Napi::Array layers = to_array(from.get("layers"), "layers", Code::model_invalid, most_layers);
  for (uint32_t i = 0, count = layers.Length(); i < count; ++i) {
    const Napi::HandleScope scope(value.Env());
    const Fields slots(layers.Get(i), "layers[" + std::to_string(i) + "]", Code::model_invalid);
    options.layers.push_back(read_layer(slots, int64_t(options.files.size())));
  }
  options.device = from.text("device");
  options.cache_type = element_of(from, "cacheType");
  options.cache_tokens = from.integer("cacheTokens", 1, most_int);
  options.max_batch = from.count("maxBatch", 1, 4096);
  options.max_rows = from.count("maxRows", 1, 1 << 16);
  options.threads = from.count("threads", 0, 4096);
  options.mmap = from.flag("mmap");
  return options;
}

Clustering clustering_of(const Fields& plan) {
  return plan.choice<Clustering>("clustering",
                                 {{"kmeans", Clustering::kmeans}, {"average-linkage-cosine", Clustering::average_linkage_cosine}});
}

HeadPlan head_plan(const Napi::Value& value, const Config& config) {
  const Fields from(value, "plan", Code::plan_invalid);
  HeadPlan plan;
  plan.method = from.choice<Method>(
      "method",
      {{"dense", Method::dense}, {"chai", Method::chai}, {"chai-static", Method::chai_static}, {"explicit", Method::explicit_map}});
  plan.warmup_tokens = from.count("warmupTokens", plan.method == Method::chai ? 1 : 0, max_warmup);
  plan.warmup_start = from.count("warmupStart", 0, max_warmup);
  ClusterRule rule;
  rule.method = clustering_of(from);
  rule.head_groups = from.count("headGroups", 1, config.heads);
  const Napi::Array layers = to_array(from.get("layers"), "plan.layers", Code::plan_invalid, most_layers);
  if (int(layers.Length()) != config.layers)
    throw Error(Code::plan_invalid,
                "plan.layers has " + std::to_string(layers.Length()) + " entries, the model " + std::to_string(config.layers) + " layers");
  for (int layer = 0; layer < config.layers; ++layer) {
    const Napi::HandleScope scope(value.Env());
    const Fields fields(layers.Get(uint32_t(layer)), "plan.layers[" + std::to_string(layer) + "]", Code::plan_invalid);
    plan.layers.push_back(plan_layer(fields, plan, rule, config, layer));
  }
  return plan;
}

GenerateOptions generate_options(const Napi::Value& value) {
  const Fields from(value, "options", Code::option_invalid);
  GenerateOptions options;
  options.sampling.temperature = float(from.number("temperature", 0, FLT_MAX));
  options.sampling.top_k = from.count("topK", 0);
  options.sampling.top_p = float(from.number("topP", 0, 1));
  options.sampling.min_p = float(from.number("minP", 0, 1));
  options.sampling.repetition_penalty = float(from.number("repetitionPenalty", FLT_MIN, FLT_MAX));
  options.sampling.seed = uint64_t(from.integer("seed", -most_safe, most_safe));
  options.sampling.logprobs = from.flag("logprobs");
  options.max_tokens = from.count("maxTokens", 0);
  options.stop_tokens = to_int32s(from.get("stopTokens"), "options.stopTokens", Code::option_invalid);
  return options;
}

Napi::Value head_maps(Napi::Env env, const HeadMap& map) {
  Napi::Array layers = Napi::Array::New(env, map.size());
  for (uint32_t i = 0; i < map.size(); ++i) {
    const Napi::HandleScope scope(env);
    Napi::Object layer = Napi::Object::New(env);
    layer.Set("scoresFrom", map[i].scores_from);
    layer.Set("scoreOfQuery", number_array(env, map[i].score_of_query));
    layer.Set("queryOfScore", number_array(env, map[i].query_of_score));
    layer.Set("keyOfScore", number_array(env, map[i].key_of_score));
    layer.Set("keptKeys", number_array(env, map[i].kept_keys));
    layer.Set("valueOfQuery", number_array(env, map[i].value_of_query));
    layer.Set("keptValues", number_array(env, map[i].kept_values));
    layers.Set(i, layer);
  }
  return layers;
}

}  // namespace chai::addon
