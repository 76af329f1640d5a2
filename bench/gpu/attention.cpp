// Decode and prefill attention through cuda/attention.h, dense beside clustered. Out: microseconds a layer, GB/s and share of the read
// ceiling, or TFLOP/s as executed and as dense attention would count them; the ratio to dense beside the ideal one, 2H / (k + H).
#include <algorithm>
#include <cmath>

#include "attention_case.h"
#include "error.h"

namespace chai::bench {
namespace {

std::string shape_name(const AttentionShape& s) {
  return std::to_string(s.heads) + "/" + std::to_string(s.key_value_heads) + "x" + std::to_string(s.head_dim) + "/" +
         std::to_string(s.batch) + "x" + std::to_string(s.context);
}

/// Layers until one pass reads several times the second cache level, so that no layer finds its pages there; fewer where memory is short.
int layers_for(AttentionShape s, const cuda::DeviceFacts& device, double room) {
  s.clusters = {s.heads};
  const double one = page_bytes_of(s);
  return std::max(1, std::min({32, int(std::ceil(4.0 * double(device.l2_bytes) / one)), int(room / one)}));
}

double free_room() {
  uint64_t free_bytes = 0, total = 0;
  cuda::memory_of_device(free_bytes, total);
  return double(free_bytes) * 0.97 - 256e6;
}

/// One cell; a shape that does not fit is recorded with the bytes it would need.
void measure(Results& results, const Options& options, const cuda::DeviceFacts& device, const std::string& cell,
             const AttentionShape& shape, const std::string& dense_cell, const std::string& section) {
  if (!results.wants(cell)) return;
  Record record(cell);
  record.number("heads", shape.heads).number("keyValueHeads", shape.key_value_heads).number("headDim", shape.head_dim);
  record.number("batch", shape.batch).number("context", shape.context).number("clusters", shape.clusters[0]);
  record.number("layers", double(shape.clusters.size()));
  const double need = page_bytes_of(shape) + double(shape.batch) * shape.rows * shape.heads * shape.head_dim * 4.0;
  if (need > free_room()) {
    results.add(record.boolean("fits", false).number("bytesNeeded", need));
    return;
  }
  const cuda::Stream stream = cuda::make_stream();
  AttentionCase made(shape, device, stream);
  cuda::Attention attention(made.config(), shape.batch * shape.rows, shape.batch, device);
  const auto all_layers = [&] { made.enqueue(attention, false); };
  made.enqueue(attention, true);
  cuda::synchronize(stream);
  const int rounds = options.tiny ? 3 : 21;
  const Times times = shape.rows == 1 ? time_graph(stream, 3, rounds, all_layers) : time_eager(stream, 2, std::min(rounds, 9), all_layers);
  const double layers = double(made.layers()), us = times.median / layers;
  record.number("us", us).number("spread", (times.most - times.least) / times.median).number("rounds", times.count);
  record.number("bytes", made.bytes() / layers).number("gbPerSecond", made.bytes() / times.median * 1e-3);
  if (const double ceiling = Results::find(options, "ceilings", "read", "gbPerSecond"); ceiling > 0)
    record.number("shareOfReadCeiling", made.bytes() / times.median * 1e-3 / ceiling);
  if (shape.rows > 1) {
    record.number("tflopExecuted", made.executed_flops() / times.median * 1e-6);
    record.number("tflopDenseEquivalent", made.dense_flops() / times.median * 1e-6);
  }
  if (const double dense = Results::find(options, section, dense_cell, "us"); dense > 0 && dense_cell != cell) {
    record.number("ratioToDense", dense / us);
    record.number("idealRatio", made.dense_flops() / made.executed_flops());
  }
  results.add(record);
  cuda::free_stream(stream);
}

struct Grid {
  std::vector<std::pair<int, int>> shapes;  // batch, context
  int heads, head_dim;
  std::vector<int> clusters;
};

}  // namespace

void measure_decode(const Options& options, const cuda::DeviceFacts& device) {
  Results results(options, "decode");
  // In order of value: the cells that have a bar come first.
  const Grid grid = options.tiny ? Grid{{{1, 130}, {2, 70}}, 8, 64, {8, 1, 3}}
                                 : Grid{{{64, 2048},
                                         {8, 8192},
                                         {1, 32768},
                                         {1, 2048},
                                         {8, 2048},
                                         {32, 2048},
                                         {1, 8192},
                                         {32, 8192},
                                         {64, 8192},
                                         {8, 32768},
                                         {32, 32768},
                                         {64, 32768}},
                                        32,
                                        128,
                                        {32, 4, 8, 16, 1}};
  for (const auto& [batch, context] : grid.shapes) {
    AttentionShape shape;
    shape.heads = shape.key_value_heads = grid.heads, shape.head_dim = grid.head_dim, shape.batch = batch, shape.context = context;
    const int layers = layers_for(shape, device, free_room());
    const std::string name = "decode/" + shape_name(shape), dense = name + "/" + std::to_string(grid.heads);
    for (const int clusters : grid.clusters) {
      shape.clusters.assign(size_t(layers), clusters);
      measure(results, options, device, name + "/" + std::to_string(clusters), shape, dense, "decode");
    }
    // The published counts, 18 dense layers and 14 of 4 clusters, in the same proportion.
    shape.clusters.clear();
    for (int i = 0; i < 16; ++i) shape.clusters.push_back(i < 9 ? grid.heads : std::min(4, grid.heads));
    measure(results, options, device, name + "/published", shape, dense, "decode");
    shape.key_value_heads = grid.heads / 4;  // grouped queries
    shape.clusters.assign(size_t(layers_for(shape, device, free_room())), grid.heads);
    const std::string grouped = "decode/" + shape_name(shape) + "/grouped";
    measure(results, options, device, grouped, shape, grouped, "decode");
  }
}

void measure_prefill(const Options& options, const cuda::DeviceFacts& device) {
  Results results(options, "prefill");
  const Grid grid =
      options.tiny ? Grid{{{1, 70}}, 4, 64, {4, 1}} : Grid{{{1, 2048}, {1, 8192}, {1, 32768}, {8, 2048}}, 32, 128, {32, 4, 8, 16, 1}};
  for (const auto& [batch, context] : grid.shapes) {
    AttentionShape shape;
    shape.heads = shape.key_value_heads = grid.heads, shape.head_dim = grid.head_dim, shape.batch = batch, shape.context = context;
    shape.rows = context;
    shape.bfloat16 = true;
    const std::string name = "prefill/" + shape_name(shape), dense = name + "/" + std::to_string(grid.heads);
    for (const int clusters : grid.clusters) {
      shape.clusters.assign(context > 10000 ? 1 : 4, clusters);
      measure(results, options, device, name + "/" + std::to_string(clusters), shape, dense, "prefill");
    }
  }
}

}  // namespace chai::bench
