// What the operations of cuda/linear.h share: the model's shape and the buffers between the kernels of one operation.
#pragma once
#include <algorithm>

#include "cublas.h"
#include "device_memory.h"
#include "linear.h"

namespace chai::cuda {

struct Linear::State {
  Config config;
  Element compute;
  int rows;    // most rows of a step
  bool early;  // kernels may start while those before them end: all of this class wait before they read what others wrote

  // Activations in the compute type, 16-bit elements; the tails of their rows are zero from the start.
  DeviceArray<uint16_t> normed;    // [rows][pitch_of(hidden)], input of the products of more than a few rows
  DeviceArray<uint16_t> inner;     // [rows][pitch_of(intermediate)]
  DeviceArray<uint16_t> embedded;  // [rows][pitch_of(embedding)], where that differs from hidden

  // Projections of heads on tensor cores; heads as numbered in qkv_task.cuh.
  DeviceArray<int16_t> slots;  // [segments <= rows][all heads]
  DeviceArray<int32_t> lists;  // [row tiles of >= 16 rows][1 + all heads]

  // Tiles that several blocks share (gemm.cu).
  DeviceArray<float> shared_sums;  // as `sharing_room` says
  DeviceArray<int32_t> arrived;    // zero between launches

  // Large products by a library of the machine's.
  std::unique_ptr<Cublas> library;  // null: none was given
  DeviceArray<uint16_t> products;   // [library_rows(rows)][library_width(config)] what a pass of its own ends; none without a library

  DeviceArray<float> frequencies;     // [head_dim / 2], none without rotary embedding
  DeviceArray<float> cosines, sines;  // [rows][head_dim / 2]
};

/// Rows of a product that needs a pass after it go through the library in pieces of so many.
inline int library_rows(int rows) { return rows < 1024 ? rows : 1024; }
/// Gate and up, or the heads of all projections.
inline int library_width(const Config& config) {
  const int heads = pitch_of(config.query_width() + 2 * config.key_value_width());
  return config.gated ? std::max(2 * pitch_of(config.intermediate), heads) : heads;
}

}  // namespace chai::cuda
