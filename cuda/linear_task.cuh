// What a product computes and what becomes of its results, apart from how it runs (gemv.cu, gemm.cu). In: weights, biases, targets.
// Out: for a pair of output columns the two weight rows, and the two finished sums in their place.
//
// Outputs come in pairs so that whatever belongs together meets in one thread: gate and up of one column, the two halves of a rotated
// dimension. A unit is 8 pairs, the 16 weight rows of a tensor-core tile: row g and row g + 8 are pair g.
#pragma once
#include "device_memory.h"
#include "step_view.cuh"

namespace chai::cuda {

/// Two output columns, numbered as the task likes; a < 0: none.
struct Pair {
  int32_t a = -1, b = -1;
};
/// What the end of a pair needs from memory, loaded ahead of the sums and not looked at before them: many loads are under way at once.
struct Addends {
  float first = 0, second = 0;            // biases
  float onto_first = 0, onto_second = 0;  // Store::add: what lies there already
  float cosine = 1, sine = 0;             // heads: their rotation
};

template <class T>
struct WeightView {
  const T* data = nullptr;
  int64_t stride = 0;
  const float* bias = nullptr;

  __device__ __forceinline__ const T* row(int64_t n) const { return data + n * stride; }
  __device__ __forceinline__ float bias_of(int n) const { return bias ? bias[n] : 0.0f; }
};
template <class T>
WeightView<T> weights_of(const chai::Linear& linear) {
  const MatrixView view = view_of(linear.weight);
  return {static_cast<const T*>(view.data), view.stride, vector_of(linear.bias)};
}

__device__ __forceinline__ float activate(Activation activation, float x) {
  switch (activation) {
    case Activation::silu: return __fdividef(x, 1.0f + __expf(-x));
    case Activation::relu: return x < 0 ? 0.0f : x;
    case Activation::gelu: return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case Activation::gelu_tanh: return __fdividef(x, 1.0f + __expf(-1.59576912f * (x + 0.044715f * x * x * x)));
  }
  return 0;
}

/// y = product + bias, stored in one of four ways.
enum class Store : uint8_t { add, floats, narrow, activated };

template <class T>
struct PlainTask {
  static constexpr bool by_heads = false;
  WeightView<T> weight;
  int32_t columns = 0;  // of the output
  Store store_as = Store::add;
  Activation activation = Activation::relu;
  float* floats = nullptr;  // [rows][pitch], Store::add and ::floats
  T* narrow = nullptr;      // [rows][pitch], the others
  int64_t pitch = 0;

  __device__ __host__ int all_units() const { return (columns + 15) / 16; }
  __device__ __forceinline__ int units(const int32_t*) const { return all_units(); }
  int all_pairs() const { return (columns + 1) / 2; }
  __device__ __forceinline__ Pair pair_of_unit(const int32_t*, int unit, int g) const { return some({unit * 16 + g, unit * 16 + g + 8}); }
  __device__ __forceinline__ Pair pair_of_index(const int32_t*, int index) const { return some({2 * index, 2 * index + 1}); }
  __device__ __forceinline__ const T* weight_row(Pair pair, bool second) const {
    const int n = second ? pair.b : pair.a;
    return n < 0 ? nullptr : weight.row(n);
  }
  __device__ __forceinline__ Addends addends(const StepView&, Pair pair, int row) const {
    Addends out;
    if (pair.a >= 0) {
      out.first = weight.bias_of(pair.a);
      if (store_as == Store::add) out.onto_first = floats[row * pitch + pair.a];
    }
    if (pair.b >= 0) {
      out.second = weight.bias_of(pair.b);
      if (store_as == Store::add) out.onto_second = floats[row * pitch + pair.b];
    }
    return out;
  }
  __device__ __forceinline__ void store(const StepView&, Pair pair, int row, float first, float second, const Addends& addends,
                                        uint64_t) const {
    if (pair.a >= 0) put(pair.a, row, first + (addends.onto_first + addends.first));
    if (pair.b >= 0) put(pair.b, row, second + (addends.onto_second + addends.second));
  }
  /// Bias and activation of a product that lies in its place already.
  bool needs_finish() const { return weight.bias || store_as == Store::activated; }
  __device__ __forceinline__ void finish(int n, int row) const {
    const bool wide = store_as == Store::add || store_as == Store::floats;
    put(n, row, (wide ? floats[row * pitch + n] : dev::to_float(narrow[row * pitch + n])) + weight.bias_of(n));
  }

 private:
  __device__ __forceinline__ Pair some(Pair pair) const { return {pair.a < columns ? pair.a : -1, pair.b < columns ? pair.b : -1}; }
  __device__ __forceinline__ void put(int n, int row, float value) const {
    if (store_as == Store::add || store_as == Store::floats)
      floats[row * pitch + n] = value;
    else
      narrow[row * pitch + n] = dev::from_float<T>(store_as == Store::activated ? activate(activation, value) : value);
  }
};

/// y = activation(gate) * up
template <class T>
struct GatedTask {
  static constexpr bool by_heads = false;
  WeightView<T> gate, up;
  int32_t columns = 0;
  Activation activation = Activation::silu;
  T* to = nullptr;  // [rows][pitch]
  int64_t pitch = 0;

  __device__ __host__ int all_units() const { return (columns + 7) / 8; }
  __device__ __forceinline__ int units(const int32_t*) const { return all_units(); }
  int all_pairs() const { return columns; }
  __device__ __forceinline__ Pair pair_of_unit(const int32_t* list, int unit, int g) const { return pair_of_index(list, unit * 8 + g); }
  __device__ __forceinline__ Pair pair_of_index(const int32_t*, int index) const { return {index < columns ? index : -1, 0}; }
  __device__ __forceinline__ const T* weight_row(Pair pair, bool second) const {
    return pair.a < 0 ? nullptr : (second ? up : gate).row(pair.a);
  }
  __device__ __forceinline__ Addends addends(const StepView&, Pair pair, int) const {
    if (pair.a < 0) return {};
    return {gate.bias_of(pair.a), up.bias_of(pair.a)};
  }
  __device__ __forceinline__ void store(const StepView&, Pair pair, int row, float first, float second, const Addends& addends,
                                        uint64_t) const {
    if (pair.a < 0) return;
    to[row * pitch + pair.a] = dev::from_float<T>(activate(activation, first + addends.first) * (second + addends.second));
  }
};

}  // namespace chai::cuda
