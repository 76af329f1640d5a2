// Whole models through the CUDA backend against the logits of `transformers` (dense) and of the float64 reference of clustered attention:
// prompts at once, token by token on top of a cache, greedy text drawn on the device. Under the SIMT shim, and unchanged on a device.
#include "check.h"
#include "engine_calls.h"
#include "fixture_model.h"
#include "gpu.h"

namespace chai {
namespace {

constexpr const char* every_model[] = {
    "llama-mha",         "llama-gqa-tied-bf16", "llama3-rope",      "llama-linear-rope", "mistral-window",
    "llama-sharded-f16", "llama-odd",           "llama-many-heads", "opt-pre",           "opt-post"};

std::filesystem::path model_folder(const std::string& name) {
  return name == "starter" ? fixture_folder().parent_path().parent_path() / "models" / "starter" : fixture_folder() / name;
}

struct Loaded {
  FixtureModel model;
  Element compute;
  std::shared_ptr<Engine> engine;

  explicit Loaded(const std::string& name) : model(model_folder(name)) {
    compute = model.stored == Element::bfloat16 ? Element::bfloat16 : Element::float16;
    model.options.cache_type = compute;
    CudaOptions options;
    options.compute = compute;
    engine = Engine::load(model.options, {}, make_cuda_backend(options));
  }
  /// The reference computes in float32 or float64: what is left is rounding of weights and activations, 16 bits each.
  double limit() const { return compute == Element::bfloat16 ? 2.5e-2 : 4e-3; }
};

/// Causal models give a prompt's first tokens the same logits whatever follows: shorter prompts cost less under the shim.
void shorten(FixtureCase& expected, size_t tokens) {
  const size_t vocabulary = expected.logits.size() / expected.prompt.size();
  expected.prompt.resize(std::min(expected.prompt.size(), tokens));
  expected.logits.resize(expected.prompt.size() * vocabulary);
}

/// Says which fixture failed, and by how much.
bool within(double error, double limit, const std::string& name) {
  if (error <= limit) return true;
  std::printf("  %s: relative error %g, %g is allowed\n", name.c_str(), error, limit);
  return false;
}

}  // namespace

TEST(cuda_fixtures_dense_logits_agree_with_transformers) {
  for (const char* name : every_model) {
    Loaded loaded(name);
    FixtureCase expected = read_case(model_folder(name) / "reference");
    if (name != every_model[0] && name != every_model[1]) shorten(expected, 40);  // those two cross the end of a page
    const auto session = loaded.engine->open(dense_plan(loaded.model.options.config));
    CHECK(within(distance(logits_of(*session, expected.prompt), expected.logits), loaded.limit(), name));
  }
}

/// The same through decode steps: a part of the prompt, a few more tokens at once, the rest one by one.
TEST(cuda_fixtures_logits_on_top_of_a_cache_agree_with_transformers) {
  for (const char* name : {"llama-odd", "mistral-window", "opt-post"}) {
    Loaded loaded(name);
    FixtureCase expected = read_case(model_folder(name) / "reference");
    const auto session = loaded.engine->open(dense_plan(loaded.model.options.config));
    std::vector<float> all;
    shorten(expected, 69);
    for (size_t at = 0; at < expected.prompt.size();) {
      const size_t count = at == 0 ? 59 : at == 59 ? 6 : 1;
      const auto logits = logits_of(*session, {expected.prompt.begin() + long(at), expected.prompt.begin() + long(at + count)});
      all.insert(all.end(), logits.begin(), logits.end());
      at += count;
    }
    CHECK(within(distance(all, expected.logits), loaded.limit(), name));
  }
}

/// Equal as long as the reference's choice is clearer than what rounding may move.
TEST(cuda_fixtures_greedy_text_equals_transformers) {
  for (const char* name : {"llama-mha"}) {
    Loaded loaded(name);
    FixtureCase expected = read_case(model_folder(name) / "reference");
    expected.greedy.resize(10);
    const auto session = loaded.engine->open(dense_plan(loaded.model.options.config));
    const auto logits = logits_of(*session, expected.prompt);
    double doubt = 0;
    for (size_t i = 0; i < logits.size(); ++i) doubt = std::max(doubt, 2.0 * std::abs(logits[i] - expected.logits[i]));
    const auto fresh = loaded.engine->open(dense_plan(loaded.model.options.config));
    const auto text = generated(*fresh, expected.prompt, greedy(int(expected.greedy.size())));
    CHECK(text.size() == expected.greedy.size());
    size_t clear = 0;
    while (clear < text.size() && expected.margins[clear] > doubt) ++clear;
    CHECK(clear > 0);
    CHECK(std::equal(text.begin(), text.begin() + long(clear), expected.greedy.begin()));
  }
}

TEST(cuda_fixtures_clustered_logits_agree_with_the_reference) {
  int compared = 0;
  for (const auto& entry : std::filesystem::directory_iterator(fixture_folder() / "clustered")) {
    if (entry.path().extension() != ".json") continue;
    FixtureCase expected = read_case(entry.path());
    shorten(expected, 14);
    Loaded loaded(expected.model);
    const HeadPlan plan = fixture_plan(expected.json["plan"], loaded.model.options.config);
    const auto session = loaded.engine->open(plan);
    const auto logits = logits_of(*session, expected.prompt);
    const std::optional<HeadMap> maps = session->head_maps();
    if (plan.method == Method::chai) CHECK(maps.has_value() == (int(expected.prompt.size()) >= plan.warmup_end()));
    // Rounding to 16 bits may tip a close decision; then the logits belong to another membership. Clear ones it may not.
    bool same = true;
    for (size_t i = 0; maps && i < expected.json["memberships"].list.size(); ++i) {
      const Json& membership = expected.json["memberships"].list[i];
      const bool equal = (*maps)[i].score_of_query == membership["clusterOf"].integers() &&
                         (*maps)[i].query_of_score == membership["representatives"].integers();
      if (same && membership["margin"].number > 1e-2) CHECK(equal);
      same &= equal;
    }
    if (!same) continue;
    ++compared;
    CHECK(within(distance(logits, expected.logits), loaded.limit(), entry.path().stem().string()));
  }
  CHECK(compared >= 12);
}

}  // namespace chai
