// The CPU backend: memory, embedding, projections, feed-forward, logits and sampling; see cpu_backend.h.
#include <cmath>
#include <cstring>
#include <new>

#include "../error.h"
#include "../platform/platform.h"
#include "cpu_backend.h"
#include "memory.h"

namespace chai::cpu {

CpuBackend::CpuBackend(const Kernels& kernels, int threads) : kernels_(kernels), pool_(threads), draw_buffers_(size_t(pool_.threads())) {}

std::string CpuBackend::describe() const {
  const int threads = pool_.threads();
  return std::string("cpu (") + kernels_.name + ", " + std::to_string(threads) + (threads == 1 ? " thread)" : " threads)");
}

DeviceMemory CpuBackend::memory() const { return host_memory(); }
Memory CpuBackend::allocate(size_t bytes, const char* what) { return allocate_memory(bytes, what); }
Memory CpuBackend::reserve(size_t bytes, const char* what) { return reserve_memory(bytes, what); }
Rows CpuBackend::allocate_rows(int rows, int width, const char* what) {
  return {allocate_memory(size_t(rows) * size_t(width) * sizeof(float), what), rows, width};
}
void CpuBackend::upload(void* device, const void* host, size_t bytes) {
  if (bytes) std::memcpy(device, host, bytes);
}
void CpuBackend::download(void* host, const void* device, size_t bytes) {
  if (bytes) std::memcpy(host, device, bytes);
}
void CpuBackend::copy(void* to, const void* from, size_t bytes) {
  if (bytes) std::memmove(to, from, bytes);
}
MatrixRef CpuBackend::prepare(const TensorSource& source) { return load_matrix(source); }
void CpuBackend::download_logits(const Rows& logits, int row, int count, float* host) {
  std::memcpy(host, row_of(logits, row), size_t(count) * size_t(logits.width) * sizeof(float));
}

void CpuBackend::plan(const Config& config, int rows, int sequences) {
  config_ = config;
  rows_ = rows;
  const int d = config.head_dim, kv = config.key_value_width();
  normed_ = allocate_rows(rows, config.hidden, "normed rows");
  projected_ = allocate_rows(rows, config.hidden, "projected rows");
  keys_ = allocate_rows(rows, kv, "projected keys");
  values_ = allocate_rows(rows, kv, "projected values");
  up_ = allocate_rows(rows, config.intermediate, "feed-forward rows");
  if (config.gated) gate_ = allocate_rows(rows, config.intermediate, "feed-forward gates");
  if (config.embedding != config.hidden) embedded_ = allocate_rows(rows, config.embedding, "embedded rows");

  const int deepest = std::max({config.hidden, config.intermediate, config.query_width(), config.embedding});
  worker_floats_ = (product_scratch(deepest) + block_rows * (chunk_rows + d) + lanes - 1) / lanes * lanes + lanes;
  worker_memory_ = allocate_memory(size_t(worker_floats_) * size_t(pool_.threads()) * sizeof(float), "thread buffers");

  if (!config.rotary_frequencies.empty()) {
    cosines_.assign(size_t(rows) * size_t(d / 2), 1.0f);
    sines_.assign(size_t(rows) * size_t(d / 2), 0.0f);
  }
  identity_.assign(size_t(HeadTable(config).size()), -1);
  write_table(identity_heads(config, 0), config, identity_.data());
  const size_t projections = size_t(config.heads) + 2 * size_t(config.key_value_heads);
  head_rows_.resize(projections);
  from_.resize(size_t(rows) * projections);
  to_.resize(size_t(rows) * projections);

  // One sequence of full length, or several shorter ones, can have their chunks on different threads.
  const int64_t chunks = (int64_t(config.context) + chunk_rows - 1) / chunk_rows;
  const int64_t unit = int64_t(config.heads) * (d * int64_t(sizeof(float)) + int64_t(sizeof(SoftmaxState)));
  part_units_ = pool_.threads() == 1 ? 0 : std::min(chunks + sequences, (int64_t{64} << 20) / unit);
  if (part_units_ > 0) {
    part_memory_ = reserve_memory(size_t(part_units_ * unit), "attention parts");
    part_values_ = static_cast<float*>(part_memory_.get());
    part_states_ = reinterpret_cast<SoftmaxState*>(part_values_ + part_units_ * config.heads * d);
  }
}

Scratch CpuBackend::scratch(int worker) const {
  float* at = static_cast<float*>(worker_memory_.get()) + worker * worker_floats_;
  float* scores = at + (worker_floats_ - lanes - block_rows * (chunk_rows + config_.head_dim)) / lanes * lanes;
  return {at, scores, scores + block_rows * chunk_rows};
}

void CpuBackend::begin(const Step& step) {
  if (step.rows() > rows_)
    throw Error(Code::device_fault, "a step of " + std::to_string(step.rows()) + " rows, but buffers for " + std::to_string(rows_));
  const int half = config_.head_dim / 2;
  if (config_.rotary_frequencies.empty()) return;
  share_rows(step.rows(), 64 * half, [&](int row, int) {
    for (int i = 0; i < half; ++i) {
      const float angle = float(step.positions[row]) * config_.rotary_frequencies[i];
      cosines_[size_t(row) * half + i] = float(std::cos(double(angle))) * config_.rotary_scale;
      sines_[size_t(row) * half + i] = float(std::sin(double(angle))) * config_.rotary_scale;
    }
  });
}

void CpuBackend::multiply(const CpuMatrix& weight, int first, int count, const float* x, int64_t x_stride, float* y, int64_t y_stride,
                          int rows, int worker) {
  constexpr int most = 512;
  const float* from[most];
  float* to[most];
  for (int row = 0; row < rows; row += most) {
    const int part = std::min(most, rows - row);
    for (int i = 0; i < part; ++i) {
      from[i] = x + (row + i) * x_stride;
      to[i] = y + (row + i) * y_stride + first;
    }
    kernels_.product({from, to, part, weight.row(first), weight.type, weight.columns, count, int(weight.columns)}, scratch(worker).product);
  }
}

void CpuBackend::project(const Linear& linear, const Rows& from, int rows, Rows& to) {
  const CpuMatrix& weight = matrix_of(linear.weight);
  const float* bias = vector_of(linear.bias);
  share_columns(int(weight.rows), rows * weight.rows * weight.columns, [&](int first, int count, int worker) {
    multiply(weight, first, count, floats(from), from.width, floats(to), to.width, rows, worker);
    if (!bias) return;
    for (int row = 0; row < rows; ++row)
      for (int i = first; i < first + count; ++i) row_of(to, row)[i] += bias[i];
  });
}

void CpuBackend::project_onto(const Linear& linear, const Rows& from, int rows, Rows& x) {
  const CpuMatrix& weight = matrix_of(linear.weight);
  const float* bias = vector_of(linear.bias);
  share_columns(int(weight.rows), rows * weight.rows * weight.columns, [&](int first, int count, int worker) {
    multiply(weight, first, count, floats(from), from.width, floats(projected_), projected_.width, rows, worker);
    for (int row = 0; row < rows; ++row)
      kernels_.add(row_of(x, row) + first, row_of(projected_, row) + first, bias ? bias + first : nullptr, count);
  });
}

void CpuBackend::normalise_row(const Norm& norm, const float* from, float* to, int width) const {
  if (norm.weight)
    kernels_.norm(config_.norm, from, vector_of(norm.weight), vector_of(norm.bias), config_.norm_epsilon, to, width);
  else if (from != to)
    std::memcpy(to, from, size_t(width) * sizeof(float));
}

void CpuBackend::normalise(const Norm& norm, const Rows& from, Rows& to, int rows) {
  share_rows(rows, from.width, [&](int row, int) { normalise_row(norm, row_of(from, row), row_of(to, row), from.width); });
}

void CpuBackend::embed(const Step& step, const ModelWeights& weights, Rows& x) {
  const CpuMatrix& table = matrix_of(weights.token_embedding);
  Rows& to = weights.embedding_projection ? embedded_ : x;
  for (int row = 0; row < step.rows(); ++row) kernels_.widen(table.row(step.tokens[row]), table.type, row_of(to, row), int(table.columns));
  if (weights.embedding_projection) project({weights.embedding_projection, nullptr}, embedded_, step.rows(), x);
  if (!weights.position_embedding) return;
  const CpuMatrix& positions = matrix_of(weights.position_embedding);
  for (int row = 0; row < step.rows(); ++row) {
    const int64_t at = int64_t(step.positions[row]) + config_.position_offset;
    kernels_.widen(positions.row(at), positions.type, row_of(projected_, row), x.width);
    kernels_.add(row_of(x, row), row_of(projected_, row), nullptr, x.width);
  }
}

void CpuBackend::output(const Step& step, const LayerWeights& weights, const Rows& mixed, Rows& x) {
  project_onto(weights.attention_output, mixed, step.rows(), x);
  if (config_.norm_placement == NormPlacement::after) normalise(weights.attention_norm, x, x, step.rows());
}

void CpuBackend::feed_forward(const Step& step, const LayerWeights& weights, Rows& x) {
  const int rows = step.rows();
  const bool before = config_.norm_placement == NormPlacement::before;
  if (before) normalise(weights.feed_forward_norm, x, normed_, rows);
  const Rows& from = before ? normed_ : x;
  const CpuMatrix& up = matrix_of(weights.up.weight);
  const float *up_bias = vector_of(weights.up.bias), *gate_bias = vector_of(weights.gate.bias);
  const int64_t cost = rows * up.rows * up.columns * (config_.gated ? 2 : 1);
  share_columns(int(up.rows), cost, [&](int first, int count, int worker) {
    const auto linear = [&](const CpuMatrix& weight, const float* bias, Rows& to) {
      multiply(weight, first, count, floats(from), from.width, floats(to), to.width, rows, worker);
      for (int row = 0; bias && row < rows; ++row)
        for (int i = first; i < first + count; ++i) row_of(to, row)[i] += bias[i];
    };
    linear(up, up_bias, up_);
    if (config_.gated) linear(matrix_of(weights.gate.weight), gate_bias, gate_);
    for (int row = 0; row < rows; ++row) {
      float* const gate = config_.gated ? row_of(gate_, row) + first : nullptr;
      float* const up_row = row_of(up_, row) + first;
      kernels_.activate(config_.activation, gate ? gate : up_row, gate ? up_row : nullptr, count);
    }
  });
  project_onto(weights.down, config_.gated ? gate_ : up_, rows, x);
  if (!before) normalise(weights.feed_forward_norm, x, x, rows);
}

void CpuBackend::logits(const Step& step, const ModelWeights& weights, const Rows& x, Rows& logits) {
  const int rows = int(step.logit_rows.size());
  for (int i = 0; i < rows; ++i) normalise_row(weights.final_norm, row_of(x, step.logit_rows[i]), row_of(normed_, i), x.width);
  const bool narrower = weights.output_projection != nullptr;
  if (narrower) project({weights.output_projection, nullptr}, normed_, rows, embedded_);
  project({weights.output, nullptr}, narrower ? embedded_ : normed_, rows, logits);
}

void CpuBackend::sample(const Step& step, const Rows& logits) {
  drawn_.resize(step.draws.size());
  share(int(step.draws.size()), int64_t(step.draws.size()) * config_.vocabulary, [&](int i, int worker) {
    const Draw& draw = step.draws[i];
    const std::span<const float> row(row_of(logits, draw.logit_row), size_t(config_.vocabulary));
    drawn_[i] = chai::draw(row, draw.sampling, draw.history, draw.index, draw_buffers_[size_t(worker)]);
  });
}

void CpuBackend::finish(Step& step) {
  step.drawn.clear();
  step.logprobs.clear();
  for (size_t i = 0; i < step.draws.size(); ++i) {
    step.drawn.push_back(drawn_[i].id);
    step.logprobs.push_back(drawn_[i].logprob);
  }
}

}  // namespace chai::cpu

namespace chai {

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options) {
  constexpr int most = 512;
  if (options.threads < 0 || options.threads > most)
    throw Error(Code::option_invalid, "threads is " + std::to_string(options.threads) + "; use 1 to " + std::to_string(most) +
                                          ", or 0 for one thread a physical core");
  const int threads = options.threads ? options.threads : std::min(most, platform::physical_cores());
  return std::make_unique<cpu::CpuBackend>(*cpu::usable_kernels().back(), threads);
}

}  // namespace chai
