// Decode and prefill attention through cuda/attention.h, dense beside clustered. Out: microseconds a layer, GB/s and share of the read
// ceiling, or TFLOP/s as executed and as dense attention would count them; the ratio to dense beside the ideal one, 2H / (k + H).
#include <algorithm>
#include <cmath>
#include <memory>

#include "attention_case.h"
#include "error.h"

namespace chai::bench {
namespace {

/// Of a row's results, relative to double precision. Rounding gives about 1e-3; one key of 2048 left out gives 2e-2.
double most_error(const AttentionShape& shape) { return shape.bfloat16 ? 2e-2 : 1e-2; }

/// LLaMA-7B's published counts: 18 layers of 32 scores, 14 of 4. Nine of 16 keep all heads.
constexpr int published_layers = 16, published_dense = 9;

std::string shape_name(const AttentionShape& s) {
  return std::to_string(s.heads) + "/" + std::to_string(s.key_value_heads) + "x" + std::to_string(s.head_dim) + "/" +
         std::to_string(s.batch) + "x" + std::to_string(s.context);
}

double free_room() {
  uint64_t free_bytes = 0, total = 0;
  cuda::memory_of_device(free_bytes, total);
  return double(free_bytes) * 0.97 - 256e6;
}

double bytes_needed(const AttentionShape& s) { return page_bytes_of(s) + double(s.batch) * s.rows * s.heads * s.head_dim * 4.0; }

struct Place {
  Results& results;
  const Options& options;
  const cuda::DeviceFacts& device;
  std::string section;

  /// Layers whose pages together exceed the second cache level many times over, so that no layer finds its pages there.
  int layers_for(AttentionShape shape) const {
    shape.clusters = {shape.heads};
    const double one = page_bytes_of(shape);
    return std::max(1, std::min(layers_beyond_cache(one, device, options.tiny), int(free_room() / one)));
  }

  void add_ratio(Record& record, const std::string& cell, const std::string& dense_cell, double us, double ideal) const {
    if (dense_cell == cell) return;
    record.number("idealRatio", ideal);
    const double dense = Results::find(options, section, dense_cell, "us");
    if (dense > 0 && us > 0) record.number("ratioToDense", dense / us).number("shareOfIdeal", dense / us / ideal);
  }

  /// One cell; a shape that does not fit is recorded with the bytes it would need.
  void measure(const std::string& cell, const AttentionShape& shape, const std::string& dense_cell) const {
    measure_or_note(results, cell, [&] { measure_fitting(cell, shape, dense_cell); });
  }

  void measure_fitting(const std::string& cell, const AttentionShape& shape, const std::string& dense_cell) const {
    if (!results.wants(cell)) return;
    Record record(cell);
    record.number("heads", shape.heads).number("keyValueHeads", shape.key_value_heads).number("headDim", shape.head_dim);
    record.number("batch", shape.batch).number("context", shape.context).number("clusters", *std::ranges::min_element(shape.clusters));
    record.number("layers", double(shape.clusters.size())).text("type", shape.bfloat16 ? "bfloat16" : "float16");
    const double need = bytes_needed(shape);
    if (need > free_room()) {
      if (need > double(device.total_bytes)) record.boolean("final", true);
      results.note(record.boolean("fits", false).number("bytesNeeded", need));
      return;
    }
    const cuda::Stream stream = cuda::make_stream();
    {
      AttentionCase made(shape, device, stream);
      cuda::Attention attention(made.config(), shape.batch * shape.rows, shape.batch, device, {.hopper_prefill = shape.sm90});
      if (shape.sm90 && !attention.hopper_prefill())
        throw Error(Code::device_unavailable, "--sm90: the kernels for Hopper are not for this device or shape");
      made.poison();
      made.plan(attention, false);
      cuda::synchronize(stream);
      const Times times = time_graph(stream, effort_of(options), [&] { made.enqueue(attention); });
      const double error = made.error();
      if (!(error < most_error(shape))) throw WrongOutput{error};
      const double layers = double(made.layers()), us = times.median / layers;
      add_times(record, times, layers).number("bytes", made.bytes() / layers).number("checked", error);
      record.number("gbPerSecond", made.bytes() / times.median * 1e-3);
      if (const double ceiling = Results::find(options, "ceilings", "read", "gbPerSecond"); ceiling > 0 && shape.rows == 1)
        record.number("shareOfReadCeiling", made.bytes() / times.median * 1e-3 / ceiling);
      record.number("tflopExecuted", made.executed_flops() / times.median * 1e-6);
      record.number("tflopDenseEquivalent", made.dense_flops() / times.median * 1e-6);
      add_ratio(record, cell, dense_cell, us, made.dense_flops() / made.executed_flops());
      if (shape.rows == 1)  // once a step, for all layers
        record.number("planUs", time_graph(stream, brief_effort_of(options), [&] { made.plan(attention, true); }).median);
      results.add(record);
    }
    cuda::free_stream(stream);
  }

  /// Nine dense layers and seven of 4 clusters in turn; where so many do not fit, what their separate times make.
  void measure_published(const std::string& name, AttentionShape shape, int few) const {
    shape.clusters.clear();
    for (int i = 0; i < published_layers; ++i) shape.clusters.push_back(i < published_dense ? shape.heads : few);
    const std::string cell = name + "/published", dense = name + "/" + std::to_string(shape.heads);
    if (bytes_needed(shape) <= free_room()) return measure(cell, shape, dense);
    const double dense_us = Results::find(options, section, dense, "us");
    const double few_us = Results::find(options, section, name + "/" + std::to_string(few), "us");
    if (dense_us <= 0 || few_us <= 0 || !results.wants(cell)) return;
    Record record(cell);
    record.number("batch", shape.batch).number("context", shape.context).boolean("derived", true);
    record.number("fitsBytesNeeded", bytes_needed(shape));
    const double us = (published_dense * dense_us + (published_layers - published_dense) * few_us) / published_layers;
    record.number("us", us).number("spread", Results::find(options, section, dense, "spread"));
    const double kept = published_dense * shape.heads + (published_layers - published_dense) * few;
    add_ratio(record, cell, dense, us, 2.0 * published_layers * shape.heads / (kept + published_layers * shape.heads));
    results.note(record);
  }

  void measure_shape(AttentionShape shape, const std::vector<int>& clusters, const std::string& prefix) const {
    const std::string name = prefix + shape_name(shape), dense = name + "/" + std::to_string(shape.heads);
    const int layers = layers_for(shape);
    for (const int kept : clusters) {
      shape.clusters.assign(size_t(layers), kept);
      measure(name + "/" + std::to_string(kept), shape, dense);
    }
    if (std::ranges::count(clusters, std::min(4, clusters[1]))) measure_published(name, shape, std::min(4, clusters[1]));
    // Grouped queries: four heads a key and value head, and clusters among them.
    shape.key_value_heads = std::max(1, shape.heads / 4);
    shape.clusters.assign(size_t(layers_for(shape)), shape.heads);
    const std::string grouped = prefix + shape_name(shape) + "/" + std::to_string(shape.heads);
    measure(grouped, shape, grouped);
  }
};

}  // namespace

void measure_decode(const Options& options, const cuda::DeviceFacts& device) {
  Results results(options, "decode");
  const Place place{results, options, device, "decode"};
  AttentionShape shape;
  std::vector<std::pair<int, int>> sizes = {{64, 2048}, {8, 8192},  {1, 32768}, {1, 2048},  {8, 2048},   {32, 2048},
                                            {1, 8192},  {32, 8192}, {64, 8192}, {8, 32768}, {32, 32768}, {64, 32768}};
  std::vector<int> clusters = {32, 4, 8, 16, 1};
  shape.heads = shape.key_value_heads = 32, shape.head_dim = 128;
  if (options.tiny) {
    shape.heads = shape.key_value_heads = 8, shape.head_dim = 64;
    sizes = {{1, 130}, {2, 70}}, clusters = {8, 3, 1};
  }
  // In order of value: the cells that have a bar come first, and of each size the ratio before the rest.
  for (const auto& [batch, context] : sizes) {
    shape.batch = batch, shape.context = context;
    place.measure_shape(shape, clusters, "decode/");
  }
}

void measure_prefill(const Options& options, const cuda::DeviceFacts& device) {
  Results results(options, "prefill");
  cuda::DeviceFacts facts = device;
  if (options.tiny && options.sm90)
    facts.capability = 90, facts.shared_bytes = 227 * 1024;  // the host shim can have the kernels for Hopper too
  const Place place{results, options, facts, "prefill"};
  AttentionShape shape;
  shape.heads = shape.key_value_heads = 32, shape.head_dim = 128, shape.bfloat16 = true, shape.sm90 = options.sm90;
  std::vector<std::pair<int, int>> sizes = {{1, 8192}, {1, 2048}, {1, 32768}, {8, 2048}};
  std::vector<int> clusters = {32, 4, 8, 16, 1};
  if (options.tiny) {
    shape.heads = shape.key_value_heads = 4, shape.head_dim = 64;
    sizes = {{1, 70}}, clusters = {4, 1};
  }
  for (const auto& [batch, context] : sizes) {
    shape.batch = batch, shape.context = shape.rows = context;
    place.measure_shape(shape, clusters, options.sm90 ? "prefill-sm90/" : "prefill/");
  }
}

}  // namespace chai::bench
