// Gram matrices of warm-up features: against plain loops over the features a backend wrote, and the limits of asking.
#include "head_gram.h"

#include <future>

#include "check.h"
#include "engine.h"
#include "error.h"
#include "reference_backend.h"
#include "tiny_model.h"

namespace chai {
namespace {

constexpr int layers = 3, heads = 8;

/// Keeps a copy of what `cluster` left in the features of each layer.
class WatchedBackend : public ReferenceBackend {
 public:
  explicit WatchedBackend(std::vector<float>& seen) : seen_(seen) {}
  void cluster(const Step& step, int layer, const Rows& queries) override {
    ReferenceBackend::cluster(step, layer, queries);
    const SequenceView& view = step.sequences[0];
    const size_t count = size_t(heads) * size_t(view.geometry->plan->feature_length());
    seen_.resize(count * layers);
    std::copy(view.features + size_t(layer) * count, view.features + size_t(layer + 1) * count, seen_.begin() + size_t(layer) * count);
  }

 private:
  std::vector<float>& seen_;
};

HeadPlan warming_plan(int start, int tokens) {
  HeadPlan plan;
  plan.method = Method::chai, plan.warmup_start = start, plan.warmup_tokens = tokens;
  plan.layers.resize(layers);
  for (auto& layer : plan.layers) layer.rule.clusters = heads;
  return plan;
}

void evaluate(Session& session, int count) {
  std::promise<EvaluateOutcome> promise;
  std::vector<int32_t> ids;
  for (int i = 0; i < count; ++i) ids.push_back((i * i * 7 + 3 * i) % 97);
  const auto job = session.evaluate(ids, EvaluateResult::none, [&](EvaluateOutcome outcome) { promise.set_value(std::move(outcome)); });
  if (const auto error = promise.get_future().get().error) std::rethrow_exception(error);
}

/// Entry (a, b) of a layer by definition: feature by feature, row after row.
double by_definition(const std::vector<float>& features, int start, int length, int layer, int a, int b, int rows) {
  double sum = 0;
  int entries = 0;
  for (int row = 0; row < rows; ++row) entries += start + row + 1;
  for (int i = 0; i < entries; ++i)
    sum += double(features[size_t((layer * heads + a) * length + i)]) * double(features[size_t((layer * heads + b) * length + i)]);
  return sum;
}

Code refusal(Session& session, const std::vector<int>& rows) {
  try {
    session.head_gram(rows);
  } catch (const Error& error) {
    return error.code;
  }
  return Code::device_fault;
}

}  // namespace

TEST(head_gram_is_that_of_the_features) {
  TinyModel model(tiny_config(layers, heads));
  for (const int start : {0, 3}) {
    std::vector<float> features;
    const auto engine = Engine::load(model.options, {}, std::make_unique<WatchedBackend>(features));
    const HeadPlan plan = warming_plan(start, 21);
    const auto session = engine->open(plan);
    evaluate(*session, start + 20);
    const std::vector<int> rows{1, 5, 6, 20};
    const auto gram = session->head_gram(rows);
    CHECK(gram.size() == rows.size() * layers * heads * heads);
    double largest = 0;
    for (size_t i = 0; i < gram.size(); ++i) {
      const int b = int(i) % heads, a = int(i) / heads % heads, layer = int(i) / (heads * heads) % layers;
      const double expected = by_definition(features, start, plan.feature_length(), layer, a, b, rows[i / size_t(layers * heads * heads)]);
      largest = std::max(largest, std::abs(gram[i] - expected));
    }
    CHECK(largest < 1e-12);
    if (start == 0) CHECK(gram[0] == 1 && gram[1] == 1);  // the first token sees itself alone
  }
}

TEST(head_gram_agrees_between_backends) {
  TinyModel model(tiny_config(layers, heads, 4));
  const std::vector<int> rows{5, 40, 99};
  std::vector<std::vector<double>> found;
  for (const bool reference : {false, true}) {
    const auto engine = Engine::load(model.options, {}, reference ? std::make_unique<ReferenceBackend>() : make_cpu_backend({1}));
    const auto session = engine->open(warming_plan(0, 100));
    evaluate(*session, 99);
    found.push_back(session->head_gram(rows));
  }
  for (size_t i = 0; i < found[0].size(); ++i) CHECK(std::abs(found[0][i] - found[1][i]) < 1e-4 * std::abs(found[1][i]));
}

TEST(head_gram_counts_what_is_not_finite_as_nothing) {
  // One layer, two heads, rows of 1 and 2 entries.
  const std::vector<double> gram = head_gram({2, NAN, 3, 4, 5, INFINITY}, {1, 2, 0, 3}, std::vector<int>{1, 2});
  CHECK(gram == (std::vector<double>{4, 8, 8, 16, 13, 8, 8, 41}));
}

TEST(head_gram_is_refused_where_there_are_no_such_rows) {
  TinyModel model(tiny_config(layers, heads));
  const auto engine = Engine::load(model.options, {});
  const auto session = engine->open(warming_plan(2, 8));
  CHECK(refusal(*session, {1}) == Code::option_invalid);  // nothing evaluated yet
  evaluate(*session, 2);
  CHECK(refusal(*session, {1}) == Code::option_invalid);  // only tokens before warmupStart
  evaluate(*session, 3);
  for (const auto& rows : {std::vector<int>{0}, {4}, {2, 2}, {3, 1}, {-1}, {1 << 30}})
    CHECK(refusal(*session, rows) == Code::option_invalid);
  CHECK(session->head_gram({1, 3}).size() == 2 * layers * heads * heads);
  CHECK(session->head_gram({}).empty());
  evaluate(*session, 5);
  CHECK(refusal(*session, {1}) == Code::option_invalid);  // clustered: the features are gone
  const auto dense = engine->open(dense_plan(model.options.config));
  evaluate(*dense, 3);
  CHECK(refusal(*dense, {1}) == Code::option_invalid);
  const auto late = engine->open(warming_plan(0, 8));
  evaluate(*late, 3);
  engine->close();
  CHECK(refusal(*late, {1}) == Code::closed);
}

}  // namespace chai
