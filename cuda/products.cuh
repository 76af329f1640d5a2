// Products of a step's rows with weights, as the operations that need them see them. In: a task (what is multiplied, and what becomes of
// the results), rows. Out: what the task stores. Few rows stream the weights (gemv.cu), more go through tensor cores (gemm.cu); both are
// compiled once for all tasks.
#pragma once
#include <climits>

#include "norm.cuh"
#include "qkv_task.cuh"
#include "step_launch.h"

namespace chai::cuda {

/// Any one task. The kernels ask which at run time, at the ends of a product: a branch that all threads take alike, where a kernel for each
/// task would be three times the machine code for the same inner loop.
template <class T>
struct Task {
  enum class Kind : uint8_t { plain, gated, heads };
  Kind kind = Kind::plain;
  PlainTask<T> plain;
  GatedTask<T> gated;
  QkvTask<T> qkv;

  Task(const PlainTask<T>& task) : kind(Kind::plain), plain(task) {}
  Task(const GatedTask<T>& task) : kind(Kind::gated), gated(task) {}
  Task(const QkvTask<T>& task) : kind(Kind::heads), qkv(task) {}

  __device__ __host__ bool by_heads() const { return kind == Kind::heads; }
  __device__ __host__ int heads() const { return by_heads() ? qkv.heads() : 0; }
  int all_units() const { return by_heads() ? qkv.all_units() : kind == Kind::gated ? gated.all_units() : plain.all_units(); }
  int all_pairs() const { return by_heads() ? qkv.all_pairs() : kind == Kind::gated ? gated.all_pairs() : plain.all_pairs(); }

  /// What the task of its kind answers.
  template <class Ask>
  __device__ __forceinline__ auto of_task(Ask ask) const {
    return by_heads() ? ask(qkv) : kind == Kind::gated ? ask(gated) : ask(plain);
  }
  __device__ __forceinline__ int units(const int32_t* list) const {
    return of_task([&](const auto& task) { return task.units(list); });
  }
  __device__ __forceinline__ Pair pair_of_unit(const int32_t* list, int unit, int g) const {
    return of_task([&](const auto& task) { return task.pair_of_unit(list, unit, g); });
  }
  __device__ __forceinline__ Pair pair_of_index(const int32_t* list, int index) const {
    return of_task([&](const auto& task) { return task.pair_of_index(list, index); });
  }
  __device__ __forceinline__ const T* weight_row(Pair pair, bool second) const {
    return of_task([&](const auto& task) { return task.weight_row(pair, second); });
  }
  __device__ __forceinline__ Addends addends(const StepView& step, Pair pair, int row) const {
    return of_task([&](const auto& task) { return task.addends(step, pair, row); });
  }
  __device__ __forceinline__ void store(const StepView& step, Pair pair, int row, float first, float second, const Addends& addends,
                                        uint64_t destination) const {
    of_task([&](const auto& task) { task.store(step, pair, row, first, second, addends, destination); });
  }
};

/// The rows of a product.
template <class T>
struct RowsOf {
  const float* x = nullptr;  // [..][pitch], normalised on the way; or null and then
  const T* rows = nullptr;   // [..][pitch]
  int32_t width = 0, pitch = 0;
  NormView norm;
  bool of_logits = false;  // as many as logit rows; x is then read at those rows
};

/// Whether `multiply_few` takes a product of so many heads (0: not by heads).
template <class T>
bool is_few(const StepLaunch& step, int heads, const RowsOf<T>& from, int rows);
template <class T>
void multiply_few(const StepLaunch& step, bool early, const Task<T>& task, const RowsOf<T>& from, int rows);

/// Rows of a step, by the host: [first, end), of those that the step has.
struct RowRange {
  int32_t first = 0, end = INT_MAX;
};

/// Per row tile a list of heads, per segment the slots of all heads (qkv.cu); both null without heads.
struct HeadLists {
  const int32_t* lists = nullptr;  // [row tiles][1 + heads]
  const int16_t* slots = nullptr;  // [segments][heads]
};

/// Room for tiles that several blocks compute, each a part of the columns.
struct Sharing {
  float* sums = nullptr;       // [row tiles * slots][threads of a tile][sums of a thread]
  int32_t* arrived = nullptr;  // [row tiles * slots] parts that are there; zero between launches
  int32_t slots = 0;           // blocks at once for one row tile; 0: tiles are not shared
};
/// What steps of up to `rows` rows may need for it: floats and counts.
struct SharingRoom {
  size_t sums = 0, blocks = 0;
};
SharingRoom sharing_room(const DeviceFacts& device, int rows);

/// What a launch needs apart from the task: `sharing` with the slots of the whole device.
template <class T>
struct Operands {
  const T* from = nullptr;  // [rows][pitch]
  int pitch = 0;
  bool of_logits = false;
  RowRange range;
  int rows = 0;  // of the range, at most
  Sharing sharing;
  HeadLists heads;
};

/// Rows of a launch's tiles; results of whole tiles do not depend on the choice.
int tile_rows_of(int units, int rows, const DeviceFacts& device);
template <class T>
void multiply_many(const StepLaunch& step, bool early, int tile_rows, const Task<T>& task, const Operands<T>& operands);

}  // namespace chai::cuda
