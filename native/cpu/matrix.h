// A weight in host memory: row-major in its file's element type, owned or in place in a mapped file. In: a TensorSource. Out: a CpuMatrix.
#pragma once
#include "../backend.h"

namespace chai::cpu {

struct CpuMatrix : Matrix {
  Element type = Element::float32;
  const void* data = nullptr;  // [rows x columns]; maybe unaligned when mapped
  Memory memory;               // null when mapped

  const void* row(int64_t index) const { return static_cast<const std::byte*>(data) + size_t(index) * size_t(columns) * bytes_of(type); }
};

/// One row (norm, bias) is widened to float32. Throws out_of_memory, and what the source's `read` throws.
std::shared_ptr<const CpuMatrix> load_matrix(const TensorSource& source);

inline const CpuMatrix& matrix_of(const MatrixRef& weight) { return static_cast<const CpuMatrix&>(*weight); }

/// The floats of a one-row weight, null when there is none.
inline const float* vector_of(const MatrixRef& weight) { return weight ? static_cast<const float*>(matrix_of(weight).data) : nullptr; }

}  // namespace chai::cpu
