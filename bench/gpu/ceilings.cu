// What the memory of this device can do at best: reading alone, and copying. Out: GB/s, the yardsticks of the other sections. (The ceiling
// of matrix products is measured beside it by baselines.py.)
#include <algorithm>

#include "bench.h"
#include "launch.cuh"

namespace chai::bench {
namespace {

using cuda::launch;

constexpr int threads = 512;
constexpr int in_flight = 8;  // 16-byte loads of a thread before the first use

/// Reads `count` 16-byte words; writes only what the compiler cannot know never happens.
__global__ void __launch_bounds__(threads) read_kernel(const uint4* from, int64_t count, uint32_t* sink) {
  uint32_t sum = 0;
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; i + (in_flight - 1) * stride < count; i += in_flight * stride) {
    uint4 words[in_flight];
#pragma unroll
    for (int k = 0; k < in_flight; ++k) words[k] = dev::load_streaming(from + i + k * stride);
#pragma unroll
    for (int k = 0; k < in_flight; ++k) sum += words[k].x ^ words[k].y ^ words[k].z ^ words[k].w;
  }
  for (; i < count; i += stride) sum += dev::load_streaming(from + i).x;
  if (sum == 0x12345678u) *sink = sum;
}

__global__ void __launch_bounds__(threads) copy_kernel(const uint4* from, uint4* to, int64_t count) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; i + (in_flight - 1) * stride < count; i += in_flight * stride) {
    uint4 words[in_flight];
#pragma unroll
    for (int k = 0; k < in_flight; ++k) words[k] = dev::load_streaming(from + i + k * stride);
#pragma unroll
    for (int k = 0; k < in_flight; ++k) to[i + k * stride] = words[k];
  }
  for (; i < count; i += stride) to[i] = dev::load_streaming(from + i);
}

/// Two numbers a thread and turn: uniform in (-width / 2, width / 2).
template <class T>
__global__ void __launch_bounds__(threads) random_kernel(uint32_t* to, int64_t words, uint32_t seed, float width) {
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < words; i += stride) {
    uint32_t h = uint32_t(i) * 0x9e3779b1u ^ uint32_t(i >> 32) * 0x85ebca77u ^ seed;
    h = (h ^ h >> 15) * 0x2c1b3c6du;
    h = (h ^ h >> 12) * 0x297a2d39u;
    h ^= h >> 15;
    to[i] = dev::pack2<T>((float(h & 0xffffu) / 65536.0f - 0.5f) * width, (float(h >> 16) / 65536.0f - 0.5f) * width);
  }
}

__global__ void nothing_kernel(uint32_t* sink) {
  if (sink == nullptr) __syncthreads();
}

void add_bandwidth(Results& results, const std::string& cell, double bytes, const Times& times) {
  Record record(cell);
  add_times(record, times).number("bytes", bytes).number("gbPerSecond", bytes / times.median * 1e-3);
  results.add(record);
}

}  // namespace

void fill_random(void* to, size_t elements, bool as_bfloat16, uint32_t seed, cuda::Stream stream, float deviation) {
  const auto kernel = as_bfloat16 ? random_kernel<__nv_bfloat16> : random_kernel<__half>;
  const unsigned blocks = unsigned(std::min<size_t>(4096, (elements / 2 + threads - 1) / threads));
  if (elements < 2) return;
  launch(kernel, {dim3(blocks), dim3(threads), 0, stream}, static_cast<uint32_t*>(to), int64_t(elements / 2), seed, deviation * 3.4641f);
}

void measure_ceilings(const Options& options, const cuda::DeviceFacts& device) {
  Results results(options, "ceilings");
  const cuda::Stream stream = cuda::make_stream();
  const Effort effort = effort_of(options);
  const size_t bytes = options.tiny ? size_t(1) << 18 : size_t(4) << 30;
  cuda::DeviceArray<unsigned char> from(bytes, "the bandwidth benchmark"), to(bytes, "the bandwidth benchmark"), sink(256, "the benchmark");
  fill_random(from.get(), bytes / 2, false, 1, stream);
  const auto* source = reinterpret_cast<const uint4*>(from.get());
  auto* word = reinterpret_cast<uint32_t*>(sink.get());
  const int64_t words = int64_t(bytes / 16);
  const std::vector<std::string> shapes = {"1", "2", "4", "8"};  // blocks a multiprocessor
  for (const std::string& shape : shapes) {
    const cuda::Launch how{dim3(unsigned(device.processors * std::stoi(shape))), dim3(threads), 0, stream};
    const auto measure = [&](const std::string& cell, double moved, const auto& run) {
      measure_or_note(results, cell, [&] {
        if (results.wants(cell)) add_bandwidth(results, cell, moved, time_graph(stream, effort, run));
      });
    };
    measure("read/blocks-per-sm-" + shape, double(bytes), [&] { launch(read_kernel, how, source, words, word); });
    measure("copy/blocks-per-sm-" + shape, 2.0 * double(bytes),
            [&] { launch(copy_kernel, how, source, reinterpret_cast<uint4*>(to.get()), words); });
  }
  for (const std::string kind : {"read", "copy"}) {
    if (!results.wants(kind)) continue;
    double best = 0;
    for (const std::string& shape : shapes)
      best = std::max(best, Results::find(options, "ceilings", kind + "/blocks-per-sm-" + shape, "gbPerSecond"));
    results.note(best > 0 ? Record(kind).number("gbPerSecond", best) : Record(kind).text("error", "none of its shapes has a time"));
  }
  // What a kernel costs that does nothing, inside a graph: the least that another launch adds to a step.
  measure_or_note(results, "edge", [&] {
    if (!results.wants("edge")) return;
    constexpr int kernels = 200;
    const Times times = time_graph(stream, effort, [&] {
      for (int i = 0; i < kernels; ++i) launch(nothing_kernel, {dim3(1), dim3(32), 0, stream}, word);
    });
    Record record("edge");
    results.add(add_times(record, times, kernels));
  });
  cuda::free_stream(stream);
}

}  // namespace chai::bench
