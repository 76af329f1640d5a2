// Embedding of a step's tokens. In: token and position tables in the compute type. Out: x = projection(token row) + position row, float32.
#include "multiply.cuh"

namespace chai::cuda {
namespace {

constexpr int threads = 128;

/// What embeds into x: tokens (unless x holds them already) plus positions (unless the model has none).
template <class T>
struct Tables {
  const T* tokens = nullptr;     // [vocabulary][token_stride], or null: x holds the projected tokens
  const T* positions = nullptr;  // [..][position_stride], or null
  int64_t token_stride = 0, position_stride = 0;
  int32_t position_offset = 0, width = 0;
};

/// One block a row.
template <class T>
__global__ void __launch_bounds__(threads) embed_rows(const StepView* view, Tables<T> tables, float* x, int pitch) {
  const int row = int(blockIdx.x);
  if (row >= view->rows) return;
  const T* token = tables.tokens ? tables.tokens + view->tokens[row] * tables.token_stride : nullptr;
  const T* position =
      tables.positions ? tables.positions + (int64_t(view->positions[row]) + tables.position_offset) * tables.position_stride : nullptr;
  float* to = x + int64_t(row) * pitch;
  for (int i = int(threadIdx.x); i < tables.width; i += threads) {
    float value = token ? dev::to_float(token[i]) : to[i];
    if (position) value += dev::to_float(position[i]);
    to[i] = value;
  }
}

/// Token rows as they are, in the compute type: input of the embedding projection.
template <class T>
__global__ void __launch_bounds__(threads) gather_tokens(const StepView* view, const T* tokens, int64_t stride, T* to) {
  const int row = int(blockIdx.x);
  if (row >= view->rows) return;
  const uint4* from = reinterpret_cast<const uint4*>(tokens + view->tokens[row] * stride);
  for (int i = int(threadIdx.x); i < stride / 8; i += threads) reinterpret_cast<uint4*>(to + row * stride)[i] = from[i];
}

}  // namespace

void Linear::embed(const StepLaunch& step, const ModelWeights& weights, float* x) {
  if (step.rows == 0) return;
  const State& s = *state_;
  const Config& config = s.config;
  with_type(s.compute, [&](auto type) {
    using T = decltype(type);
    const MatrixView tokens = view_of(weights.token_embedding), positions = view_of(weights.position_embedding);
    const Launch rows{dim3(unsigned(step.rows)), dim3(threads), 0, step.stream};
    Tables<T> tables{static_cast<const T*>(tokens.data),
                     static_cast<const T*>(positions.data),
                     tokens.stride,
                     positions.stride,
                     config.position_offset,
                     config.hidden};
    if (weights.embedding_projection) {
      T* embedded = reinterpret_cast<T*>(s.embedded.get());
      launch(gather_tokens<T>, rows, step.view, tables.tokens, tokens.stride, embedded);
      multiply(step, s, float_task<T>({weights.embedding_projection, nullptr}, x, config.hidden, pitch_of(config.hidden)),
               rows_of(static_cast<const T*>(embedded), config.embedding), step.rows);
      tables.tokens = nullptr;
      if (!tables.positions) return;
    }
    launch(embed_rows<T>, rows, step.view, tables, x, pitch_of(config.hidden));
  });
}

}  // namespace chai::cuda
