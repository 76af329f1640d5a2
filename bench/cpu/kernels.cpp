// How fast the CPU backend's kernels and draws are on one thread, beside what the machine can do at most. In: [rounds] [seconds of each
// measurement]. Out: JSON on standard output: for every instruction set that runs here, the median, least and greatest rate of the rounds,
// which go through all measurements in turn.
#include "cpu/kernels.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../draw_ways.h"
#include "ceilings.h"
#include "cpu/memory.h"

namespace chai::bench {
namespace {

using cpu::Kernels;

struct Measurement {
  std::string set, what, unit;
  double work;  // of one call, in the unit's
  std::function<void()> call;
  std::vector<double> rates;

  void run(double seconds) {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    int64_t calls = 0;
    double passed = 0;
    for (int64_t batch = 1; passed < seconds; batch *= 2) {
      for (int64_t i = 0; i < batch; ++i) call();
      calls += batch;
      passed = std::chrono::duration<double>(Clock::now() - start).count();
    }
    rates.push_back(work * double(calls) / passed);
  }
};

void draw(float* to, size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> draw(-1, 1);
  for (size_t i = 0; i < count; ++i) to[i] = draw(random);
}

/// Elements in memory as the backend has it for weights, pages and scratch.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t count) : memory_(cpu::allocate_memory(count * sizeof(T), "a benchmark")) {}
  T* data() const { return static_cast<T*>(memory_.get()); }

 private:
  Memory memory_;
};

/// Float16 matrices, more than caches hold, and rows to multiply them with.
struct Matrices {
  static constexpr int columns = 2048, depth = 2048, copies = 32, rows = 512;
  static constexpr size_t elements = size_t(columns) * depth;
  Buffer<uint16_t> weights{copies * elements};
  Buffer<float> x{size_t(rows) * depth}, y{size_t(rows) * columns}, scratch{size_t(cpu::product_scratch(depth))};
  std::vector<const float*> from;
  std::vector<float*> to;

  Matrices() {
    draw(x.data(), size_t(rows) * depth, 1);
    std::vector<float> one(elements);
    draw(one.data(), elements, 2);
    cpu::plain_kernels.narrow(one.data(), Element::float16, weights.data(), int(elements));
    for (int i = 1; i < copies; ++i) std::copy_n(weights.data(), elements, weights.data() + i * elements);
    for (int i = 0; i < rows; ++i) from.push_back(x.data() + size_t(i) * depth), to.push_back(y.data() + size_t(i) * columns);
  }
  size_t bytes() const { return copies * elements * sizeof(uint16_t); }
  void multiply(const Kernels& kernels, int count, int copy) {
    kernels.product({from.data(), to.data(), count, weights.data() + size_t(copy) * elements, Element::float16, depth, columns, depth},
                    scratch.data());
  }
};

/// What attention asks for at once: rows of queries over a chunk of keys and values in the second-level cache.
struct Head {
  static constexpr int rows = 24, keys = 256, head_dim = 64;
  Buffer<float> queries{size_t(rows) * head_dim}, scores{size_t(rows) * keys}, weights{size_t(rows) * keys}, out{size_t(rows) * head_dim};
  Buffer<float> scratch{size_t(cpu::product_scratch(head_dim))};
  Buffer<uint16_t> page{size_t(keys) * head_dim};
  std::vector<const float*> from;
  std::vector<float*> to;

  Head() {
    draw(queries.data(), size_t(rows) * head_dim, 3), draw(scores.data(), size_t(rows) * keys, 4);
    std::vector<float> keys_of_page(size_t(keys) * head_dim);
    draw(keys_of_page.data(), keys_of_page.size(), 5);
    cpu::plain_kernels.narrow(keys_of_page.data(), Element::float16, page.data(), keys * head_dim);
    for (int i = 0; i < rows; ++i) from.push_back(queries.data() + size_t(i) * head_dim), to.push_back(weights.data() + size_t(i) * keys);
  }
  void score(const Kernels& kernels, int count) {
    kernels.product({from.data(), to.data(), count, page.data(), Element::float16, head_dim, keys, head_dim}, scratch.data());
  }
  void add_values(const Kernels& kernels, int count) {
    kernels.weighted_sum({scores.data(), keys, count, keys, page.data(), Element::float16, head_dim, head_dim, out.data(), head_dim, 0});
  }
  void softmax(const Kernels& kernels) {
    std::copy(scores.data(), scores.data() + size_t(rows) * keys, weights.data());
    for (int i = 0; i < rows; ++i) kernels.softmax(weights.data() + size_t(i) * keys, 0, keys, 0.125f);
  }
};

struct Draws {
  Sampling sampling;
  std::vector<float> logits;
  DrawBuffers buffers{};
  uint64_t index = 0;
  volatile int64_t sum = 0;  // so that draws are not left out
  void one() { sum = sum + chai::draw(logits, sampling, {}, index++, buffers).id; }
};

std::vector<Measurement> list(Matrices& m, Head& h) {
  constexpr double matrix = double(Matrices::elements) / 1e9, page = double(Head::keys) * Head::head_dim / 1e9;
  std::vector<Measurement> all;
  all.push_back({"", "reads", "GB/s", double(m.bytes()) / 1e9, [&] { read_all(m.weights.data(), m.bytes()); }, {}});
  for (const int vocabulary : draw_vocabularies())
    for (const auto& [way, sampling] : draw_ways()) {
      if (sampling.logprobs) continue;
      auto draws = std::make_shared<Draws>(Draws{sampling, logits_to_draw_from(1, vocabulary)});
      all.push_back({"", "draws of " + std::to_string(vocabulary) + ", " + way, "draws/s", 1, [=] { draws->one(); }, {}});
    }
  for (const Kernels* k : cpu::usable_kernels()) {
    const auto add = [&](const char* what, const char* unit, double work, std::function<void()> call) {
      all.push_back({k->name, what, unit, work, std::move(call), {}});
    };
    if (const auto peak = multiply_adds_of(k->name)) add("multiply-adds", "GFLOP/s", peak->operations / 1e9, peak->run);
    add("product of 512 rows", "GFLOP/s", 2 * matrix * Matrices::rows, [=, &m] { m.multiply(*k, Matrices::rows, 0); });
    add("matrix times vector", "GB/s", 2 * matrix, [=, &m, at = 0]() mutable { m.multiply(*k, 1, at = (at + 1) % Matrices::copies); });
    add("scores of 24 rows", "GFLOP/s", 2 * page * Head::rows, [=, &h] { h.score(*k, Head::rows); });
    add("values of 24 rows", "GFLOP/s", 2 * page * Head::rows, [=, &h] { h.add_values(*k, Head::rows); });
    add("scores of one row", "GFLOP/s", 2 * page, [=, &h] { h.score(*k, 1); });
    add("values of one row", "GFLOP/s", 2 * page, [=, &h] { h.add_values(*k, 1); });
    add("softmax", "Gweights/s", double(Head::rows) * Head::keys / 1e9, [=, &h] { h.softmax(*k); });
  }
  return all;
}

void print(const Measurement& m, bool last) {
  std::vector<double> sorted = m.rates;
  std::sort(sorted.begin(), sorted.end());
  const size_t half = sorted.size() / 2;
  const double median = sorted.size() % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  std::printf("  {\"set\": \"%s\", \"what\": \"%s\", \"unit\": \"%s\", \"median\": %.4g, \"least\": %.4g, \"greatest\": %.4g}%s\n",
              m.set.c_str(), m.what.c_str(), m.unit.c_str(), median, sorted.front(), sorted.back(), last ? "" : ",");
}

void measure(int rounds, double seconds) {
  Matrices matrices;
  Head head;
  std::vector<Measurement> all = list(matrices, head);
  for (int round = 0; round <= rounds; ++round) {
    for (Measurement& one : all) one.run(seconds);
    if (round == 0)
      for (Measurement& one : all) one.rates.clear();  // to warm up
  }
  std::printf("[\n");
  for (size_t i = 0; i < all.size(); ++i) print(all[i], i + 1 == all.size());
  std::printf("]\n");
}

}  // namespace
}  // namespace chai::bench

int main(int count, char** arguments) {
  const int rounds = count > 1 ? std::atoi(arguments[1]) : 5;
  const double seconds = count > 2 ? std::atof(arguments[2]) : 0.2;
  if (rounds < 1 || !(seconds > 0)) {
    std::fprintf(stderr, "usage: chai_bench_cpu [rounds] [seconds of each measurement]\n");
    return 2;
  }
  try {
    chai::bench::measure(rounds, seconds);
  } catch (const std::exception& error) {  // no memory
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
