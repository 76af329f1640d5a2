// Random models and steps for tests of cuda/linear.h, with the same numbers in double precision. In: a config, an element type.
// Out: weights on the device, expected values with a bound on the error that rounding to 16 bits explains.
#pragma once
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "check.h"
#include "cublas_standin.h"
#include "kv_cache.h"
#include "linear.h"
#include "random_heads.h"
#include "step_arena.h"
#include "upload.h"

namespace chai::cuda {

inline void use_seed([[maybe_unused]] uint64_t seed) {
#if !defined(__CUDACC__)
  simt::seed = seed;
#endif
}

inline double relative_step(Element type) { return type == Element::float16 ? 0x1p-11 : 0x1p-8; }
inline uint16_t narrowed(double x, Element type) {
  return type == Element::float16 ? float16_of_float(float(x)) : bfloat16_of_float(float(x));
}
inline double widened(uint16_t bits, Element type) { return type == Element::float16 ? float_of_float16(bits) : float_of_bfloat16(bits); }

/// A value and how far 16-bit rounding of the inputs and of the result may move it.
struct Expected {
  double value = 0, bound = 0;
};
inline bool close(double got, const Expected& want) { return std::abs(got - want.value) <= want.bound; }

/// A tensor on the device and in double precision, after rounding to the device's type.
struct Tensor {
  MatrixRef device;
  std::vector<double> values;
  int columns = 0;
  double at(int64_t row, int column) const { return values[size_t(row * columns + column)]; }
};

/// Device memory that starts as NaN, with its contents on demand.
template <class T>
struct Buffer {
  DeviceArray<T> memory;
  explicit Buffer(size_t count) : memory(count, "test") { poison(); }
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) { write(values); }
  T* get() const { return memory.get(); }
  void poison() const {
    fill(memory.get(), 0xff, memory.count() * sizeof(T), nullptr);
    synchronize(nullptr);
  }
  void write(const std::vector<T>& values) const {
    if (!values.empty()) copy_to_device(memory.get(), values.data(), values.size() * sizeof(T), nullptr);
    synchronize(nullptr);
  }
  std::vector<T> read() const {
    std::vector<T> out(memory.count());
    copy_to_host(out.data(), memory.get(), out.size() * sizeof(T), nullptr);
    synchronize(nullptr);
    return out;
  }
};

inline DeviceFacts first_device() {
  std::string why_none;
  if (count_devices(why_none) == 0) throw std::runtime_error(why_none);
  return open_device(0);
}

/// A config of odd sizes: nothing divides by 8.
inline Config odd_config(int heads, int key_value_heads, int head_dim, bool rotary) {
  Config c;
  c.layers = 2, c.heads = heads, c.key_value_heads = key_value_heads, c.head_dim = head_dim;
  c.hidden = c.embedding = 36, c.intermediate = 50, c.vocabulary = 203, c.context = 512;
  c.attention_scale = 0.3f, c.rotary_scale = 1.25f;
  for (int i = 0; rotary && i < head_dim / 2; ++i) c.rotary_frequencies.push_back(std::pow(0.3f, float(i)));
  return c;
}

/// How launches are planned.
struct Planned {
  int processors = 0;    // multiprocessors, 0: those of the device
  bool library = false;  // large products through cuBLAS, under the shim through its stand-in
};

struct Fixture {
  Config config;
  Element type;
  Planned planned;
  DeviceFacts device;
  Linear linear;
  Staging staging{nullptr};
  std::mt19937 random{7};

  /// Under the shim the device is taken for one whose blocks get as much shared memory as on Hopper, so that the largest tiles run too.
  void widen_blocks() {
#if !defined(__CUDACC__)
    device.shared_bytes = 227 * 1024;
#endif
  }

  Fixture(const Config& c, Element compute, int rows, Planned plan = {})
      : config(c),
        type(compute),
        planned(plan),
        device(with_processors(plan.processors)),
        linear(c, compute, rows, device, plan.library ? test_library(device) : nullptr) {}
  static DeviceFacts with_processors(int processors) {
    DeviceFacts facts = first_device();
    if (processors > 0) facts.processors = processors;
    return facts;
  }

  Tensor tensor(int rows, int columns, float deviation, float mean = 0) {
    Tensor out;
    out.columns = columns;
    std::normal_distribution<float> normal(mean, deviation);
    std::vector<float> values(size_t(rows) * size_t(columns));
    for (float& value : values) {
      value = normal(random);
      if (rows > 1) value = float(widened(narrowed(value, type), type));
    }
    out.values.assign(values.begin(), values.end());
    TensorSource source{Element::float32, rows, columns, {}, nullptr};
    source.read = [&](size_t offset, size_t bytes, void* to) {
      std::memcpy(to, reinterpret_cast<const std::byte*>(values.data()) + offset, bytes);
    };
    out.device = upload_matrix(source, type, staging);
    synchronize(nullptr);
    return out;
  }
  /// Rows of activations, float32, with a zero tail.
  std::vector<float> rows(int count, int width) {
    std::normal_distribution<float> normal(0.2f, 1);
    std::vector<float> out(size_t(count) * size_t(pitch_of(width)), 0.0f);
    for (int r = 0; r < count; ++r)
      for (int i = 0; i < width; ++i) out[size_t(r) * size_t(pitch_of(width)) + size_t(i)] = normal(random);
    return out;
  }
  std::vector<uint16_t> narrow_rows(const std::vector<float>& rows) const {
    std::vector<uint16_t> out;
    for (const float value : rows) out.push_back(narrowed(value, type));
    return out;
  }

  std::vector<double> normed(const float* x, int width, const Tensor* weight, const Tensor* bias) const {
    double mean = 0, square = 0;
    for (int i = 0; config.norm == NormKind::layer && i < width; ++i) mean += double(x[i]) / width;
    for (int i = 0; i < width; ++i) square += (x[i] - mean) * (x[i] - mean) / width;
    std::vector<double> out;
    for (int i = 0; i < width; ++i) {
      const double y = (x[i] - mean) / std::sqrt(square + config.norm_epsilon);
      out.push_back(weight ? y * weight->at(0, i) + (bias ? bias->at(0, i) : 0) : x[i]);
    }
    return out;
  }
  /// Row n of a weight times x (+ bias); each input is off by at most its bound, or by the rounding to 16 bits.
  Expected product(const Tensor& weight, const Tensor* bias, int n, const std::vector<double>& x) const {
    Expected out;
    double size = 0;
    for (int k = 0; k < weight.columns; ++k) {
      out.value += weight.at(n, k) * x[size_t(k)];
      size += std::abs(weight.at(n, k) * x[size_t(k)]);
    }
    if (bias) out.value += bias->at(0, n);
    out.bound = 1.5 * relative_step(type) * size + 1e-6;
    return out;
  }
  /// A product that a pass of its own goes on with is 16 bits wide in between.
  Expected rounded_by_library(Expected e) const {
    if (planned.library) e.bound += 2 * relative_step(type) * (std::abs(e.value) + 1);
    return e;
  }
};

/// A ragged step with head maps of its own for every sequence; pages are scattered over a pool full of NaN.
struct Ragged {
  struct Sequence {
    std::shared_ptr<const PlanGeometry> geometry;
    HeadMap map;
    std::shared_ptr<Buffer<int32_t>> tables, pages, warm;
    std::vector<int32_t> page_ids, warm_ids;
  };
  Config config;
  Element cache;
  Step step;
  std::vector<Sequence> sequences;
  std::vector<int32_t> free_pages;
  std::unique_ptr<Buffer<unsigned char>> pool;
  std::unique_ptr<StepArena> arena;
  std::mt19937 random{23};
  int blocks;

  Ragged(const Config& c, Element cache_type, int count, int longest)
      : config(c), cache(cache_type), blocks((longest + page_rows - 1) / page_rows) {
    const int slots = c.layers * 2 * c.key_value_heads;
    for (int i = 0; i < count * blocks * slots + count * c.layers * c.key_value_heads * 4; ++i) free_pages.push_back(i);
    std::shuffle(free_pages.begin(), free_pages.end(), random);
    step.pool.row_bytes = size_t(c.head_dim) * 2;
    step.pool.page_bytes = (step.pool.row_bytes * page_rows + 255) / 256 * 256;
    step.pool.type = cache_type;
    pool = std::make_unique<Buffer<unsigned char>>(free_pages.size() * step.pool.page_bytes);
    step.pool.base = pool->get();
  }
  std::vector<int32_t> take(size_t count) {
    std::vector<int32_t> out(free_pages.end() - std::ptrdiff_t(count), free_pages.end());
    free_pages.resize(free_pages.size() - count);
    return out;
  }
  /// warm: tokens < 5 + 3 are warm-up tokens of method chai; the map is then what membership was found to be.
  void add_sequence(HeadKind kind, bool warm) {
    Sequence s;
    HeadPlan plan;
    s.map = random_heads(config, kind, random);
    plan.method = warm ? Method::chai : Method::explicit_map;
    plan.warmup_start = 3, plan.warmup_tokens = 5;
    for (const LayerHeads& heads : s.map) plan.layers.push_back({{Clustering::kmeans, config.heads, 1, 0}, heads});
    s.geometry = make_geometry(std::make_shared<HeadPlan>(plan), config);
    std::vector<int32_t> tables;
    for (const LayerHeads& heads : s.map) {
      std::vector<int32_t> table(size_t(HeadTable(config).size()), -1);
      write_table(heads, config, table.data());
      tables.insert(tables.end(), table.begin(), table.end());
    }
    s.page_ids = take(size_t(blocks * s.geometry->table_rows));
    s.warm_ids = take(size_t(config.layers * config.key_value_heads * s.geometry->warm_blocks));
    s.tables = std::make_shared<Buffer<int32_t>>(tables);
    s.pages = std::make_shared<Buffer<int32_t>>(s.page_ids);
    s.warm = std::make_shared<Buffer<int32_t>>(s.warm_ids);
    step.sequences.push_back({s.geometry.get(), s.tables->get(), s.pages->get(), s.warm->get(), nullptr});
    sequences.push_back(s);
  }
  void add_segment(int sequence, int position, int count, bool warm_up) {
    step.segments.push_back({step.rows(), count, position, warm_up, sequence});
    for (int i = 0; i < count; ++i) {
      step.tokens.push_back(int32_t(random() % unsigned(config.vocabulary)));
      step.positions.push_back(position + i);
    }
  }
  /// Sends the step; `bucket` rows are covered (0: as many as there are).
  StepLaunch launch(const Fixture& fixture, int bucket = 0) {
    arena = std::make_unique<StepArena>(config, std::max(1, step.rows()), std::max<int>(1, int(step.sequences.size())));
    arena->fill(step, fixture.linear.cosines(), fixture.linear.sines(), nullptr);
    StepLaunch out;
    out.view = arena->view();
    out.host = bucket ? nullptr : &step;
    out.rows = bucket ? bucket : step.rows();
    out.sequences = int(step.sequences.size());
    out.logit_rows = bucket ? bucket : int(step.logit_rows.size());
    for (const Segment& segment : step.segments) {
      out.warm_up |= segment.warm_up;
      out.prefill |= segment.count > 1;
    }
    const Config& c = config;
    out.geometry = {c.layers, c.heads, c.key_value_heads, c.head_dim, c.hidden, c.sliding_window, c.attention_scale};
    out.compute = fixture.type, out.cache = cache;
    out.device = &fixture.device;
    return out;
  }
};

}  // namespace chai::cuda
