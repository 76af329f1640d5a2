// The products of one layer in the LLaMA-7B shape through cuda/linear.h: what the whole step is made of besides attention. In: rows of a
// step. Out: microseconds of each operation, GB/s of the weights it reads and TFLOP/s, dense and with 4 scores kept; prompts also through
// cuBLAS.
#include <cstdio>
#include <memory>
#include <utility>

#include "attention_case.h"
#include "cublas.h"
#include "linear.h"

namespace chai::bench {
namespace {

using cuda::DeviceMatrix;

std::shared_ptr<const DeviceMatrix> random_matrix(int rows, int columns, unsigned seed, cuda::Stream stream) {
  auto matrix = std::make_shared<DeviceMatrix>();
  matrix->rows = rows, matrix->columns = columns, matrix->stride = cuda::pitch_of(columns);
  const size_t elements = size_t(rows) * size_t(matrix->stride);
  matrix->data = cuda::allocate_shared(elements * 2, "weights of the benchmark");
  fill_random(matrix->data.get(), elements, false, seed, stream, 0.02f);
  return matrix;
}

std::shared_ptr<const DeviceMatrix> ones(int width, cuda::Stream stream) {
  auto matrix = std::make_shared<DeviceMatrix>();
  matrix->rows = 1, matrix->columns = width, matrix->stride = width, matrix->type = Element::float32;
  matrix->data = cuda::allocate_shared(size_t(width) * sizeof(float), "weights of the benchmark");
  const std::vector<float> values(size_t(width), 1.0f);
  cuda::copy_to_device(matrix->data.get(), values.data(), values.size() * sizeof(float), stream);
  cuda::synchronize(stream);
  return matrix;
}

ModelWeights random_weights(const Config& c, cuda::Stream stream) {
  ModelWeights weights;
  weights.final_norm.weight = ones(c.hidden, stream);
  weights.output = weights.token_embedding = random_matrix(c.vocabulary, c.hidden, 1, stream);
  for (int i = 0; i < c.layers; ++i) {
    const unsigned seed = 100 * unsigned(i + 1);
    LayerWeights layer;
    layer.attention_norm.weight = layer.feed_forward_norm.weight = ones(c.hidden, stream);
    layer.query.weight = random_matrix(c.query_width(), c.hidden, seed + 1, stream);
    layer.key.weight = random_matrix(c.key_value_width(), c.hidden, seed + 2, stream);
    layer.value.weight = random_matrix(c.key_value_width(), c.hidden, seed + 3, stream);
    layer.attention_output.weight = random_matrix(c.hidden, c.query_width(), seed + 4, stream);
    layer.gate.weight = random_matrix(c.intermediate, c.hidden, seed + 5, stream);
    layer.up.weight = random_matrix(c.intermediate, c.hidden, seed + 6, stream);
    layer.down.weight = random_matrix(c.hidden, c.intermediate, seed + 7, stream);
    weights.layers.push_back(std::move(layer));
  }
  return weights;
}

struct Products {
  Results& results;
  const Options& options;
  const cuda::DeviceFacts& device;
  bool library = false;  // cuBLAS for large products; not while a graph is recorded

  /// `weights`: that one call reads; `flops`: operations of one call.
  void add(const std::string& cell, int rows, double weights, double flops, double calls, cuda::Stream stream,
           const std::function<void()>& run) const {
    measure_or_note(results, cell, [&] { measure_one(cell, rows, weights, flops, calls, stream, run); });
  }

  void measure_one(const std::string& cell, int rows, double weights, double flops, double calls, cuda::Stream stream,
                   const std::function<void()>& run) const {
    if (!results.wants(cell)) return;
    const Times times = library ? time_runs(stream, effort_of(options), run) : time_graph(stream, effort_of(options), run);
    const double us = times.median / calls;
    Record record(cell);
    record.number("rows", rows);
    add_times(record, times, calls).number("bytes", 2 * weights).number("gbPerSecond", 2 * weights / us * 1e-3);
    record.number("tflop", flops / us * 1e-6);
    if (const double gb = Results::find(options, "ceilings", "read", "gbPerSecond"); gb > 0 && rows <= 64)
      record.number("shareOfReadCeiling", 2 * weights / us * 1e-3 / gb);
    results.add(record);
  }

  void measure(const std::string& name, AttentionShape shape, int layers, int kept) const {
    shape.clusters.assign(size_t(layers), kept);
    const int rows = shape.batch * shape.rows;
    const std::string end = "/" + name + (library ? "-cublas/" : "/") + std::to_string(rows);
    const bool dense = kept == shape.heads;
    std::vector<std::string> cells{"products/qkv" + end};
    if (dense) cells.insert(cells.end(), {"products/output" + end, "products/feed-forward" + end, "products/logits" + end});
    if (!results.wants_any(cells)) return;
    auto cublas = cuda::Cublas::open(library, device);
    if (library && !cublas->ready()) {
      std::printf("no products by cuBLAS: %s\n", cublas->description().c_str());
      return;
    }
    const cuda::Stream stream = cuda::make_stream();
    {
      AttentionCase made(shape, device, stream);
      const Config& c = made.config();
      cuda::Linear linear(c, Element::float16, rows, device, std::move(cublas));
      made.use_rotary(linear.cosines(), linear.sines());
      linear.rotary_tables(made.launch());
      const ModelWeights weights = random_weights(c, stream);
      const size_t pitch = size_t(cuda::pitch_of(c.hidden));
      cuda::DeviceArray<float> x(size_t(rows) * pitch, "activations of the benchmark");
      cuda::DeviceArray<uint16_t> queries(size_t(rows) * pitch, "activations of the benchmark"), mixed(size_t(rows) * pitch, "activations");
      cuda::DeviceArray<float> logits(size_t(shape.batch) * size_t(c.vocabulary), "logits of the benchmark");
      fill_random(mixed.get(), size_t(rows) * pitch, false, 8, stream);
      const auto each = [&](const auto& run) {
        return [&, run] {
          for (int layer = 0; layer < layers; ++layer) run(layer);
        };
      };
      linear.embed(made.launch(), weights, x.get());
      const double h = c.hidden, r = rows, n = layers;
      const double projections = h * c.head_dim * (2.0 * kept + c.key_value_heads);
      add(cells[0], rows, projections, 2 * r * projections, n, stream,
          each([&](int layer) { linear.qkv(made.launch(), Phase::rest, layer, weights.layers[size_t(layer)], x.get(), queries.get()); }));
      if (dense) {
        add(cells[1], rows, h * c.query_width(), 2 * r * h * c.query_width(), n, stream,
            each([&](int layer) { linear.output(made.launch(), weights.layers[size_t(layer)], mixed.get(), x.get()); }));
        add(cells[2], rows, 3 * h * c.intermediate, 6 * r * h * c.intermediate, n, stream,
            each([&](int layer) { linear.feed_forward(made.launch(), weights.layers[size_t(layer)], x.get()); }));
        std::vector<ModelWeights> heads(options.tiny ? 2 : 8, weights);  // of an output matrix each, for the cache's sake
        for (size_t i = 1; i < heads.size(); ++i) heads[i].output = random_matrix(c.vocabulary, c.hidden, unsigned(i), stream);
        add(cells[3], shape.batch, h * c.vocabulary, 2.0 * shape.batch * h * c.vocabulary, double(heads.size()), stream, [&] {
          for (const ModelWeights& head : heads) linear.logits(made.launch(), head, x.get(), logits.get());
        });
      }
      cuda::synchronize(stream);
    }
    cuda::free_stream(stream);
  }
};

}  // namespace

void measure_products(const Options& options, const cuda::DeviceFacts& device) {
  Results results(options, "products");
  Products products{results, options, device};
  AttentionShape shape;
  shape.heads = shape.key_value_heads = options.tiny ? 4 : 32, shape.head_dim = options.tiny ? 32 : 128;
  // Sixteen layers are 6.5 GB, their clustered projections alone 0.7 GB: none is found in the second cache level.
  const int layers = options.tiny ? 2 : 16, few = options.tiny ? 1 : 4;
  for (const int batch : options.tiny ? std::vector<int>{1, 3} : std::vector<int>{1, 8, 64, 2, 4, 16, 32}) {
    shape.batch = batch, shape.context = 128, shape.rows = 1;
    for (const int kept : {shape.heads, few}) products.measure(kept == few ? "clustered" : "dense", shape, layers, kept);
  }
  shape.batch = 1, shape.context = shape.rows = options.tiny ? 70 : 2048;
  for (const bool library : {false, true}) {
    products.library = library;
    for (const int kept : {shape.heads, few}) products.measure(kept == few ? "clustered" : "dense", shape, layers, kept);
  }
}

}  // namespace chai::bench
