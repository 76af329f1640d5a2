// A weight in host memory; see matrix.h.
#include "matrix.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "memory.h"

namespace chai::cpu {
namespace {

constexpr size_t read_bytes = size_t{4} << 20;  // at once, so that progress is shown and an abort is noticed

void read_all(const TensorSource& source, size_t bytes, std::byte* to) {
  for (size_t offset = 0; offset < bytes; offset += read_bytes) source.read(offset, std::min(read_bytes, bytes - offset), to + offset);
}

void widen(const std::byte* from, Element type, size_t count, float* to) {
  if (type == Element::float32) {
    std::memcpy(to, from, count * sizeof(float));
    return;
  }
  for (size_t i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, from + 2 * i, 2);
    to[i] = type == Element::float16 ? float_of_float16(bits) : float_of_bfloat16(bits);
  }
}

}  // namespace

std::shared_ptr<const CpuMatrix> load_matrix(const TensorSource& source) {
  auto matrix = std::make_shared<CpuMatrix>();
  matrix->rows = source.rows;
  matrix->columns = source.columns;
  matrix->type = source.type;
  const size_t count = size_t(source.rows) * size_t(source.columns), bytes = count * bytes_of(source.type);
  if (source.rows == 1) {
    std::vector<std::byte> own;
    const std::byte* from = static_cast<const std::byte*>(source.mapped);
    if (!from) {
      own.resize(bytes);
      read_all(source, bytes, own.data());
      from = own.data();
    }
    matrix->memory = allocate_memory(count * sizeof(float), "a weight vector");
    widen(from, source.type, count, static_cast<float*>(matrix->memory.get()));
    matrix->type = Element::float32;
    matrix->data = matrix->memory.get();
  } else if (source.mapped) {
    matrix->data = source.mapped;
  } else {
    matrix->memory = allocate_memory(bytes, "the weights");
    read_all(source, bytes, static_cast<std::byte*>(matrix->memory.get()));
    matrix->data = matrix->memory.get();
  }
  return matrix;
}

}  // namespace chai::cpu
