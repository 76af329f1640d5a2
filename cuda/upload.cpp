// A weight on its way to the device; see upload.h.
#include "upload.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "error.h"

namespace chai::cuda {
namespace {

float widened(const std::byte* from, Element type, size_t i) {
  if (type == Element::float32) {
    float value;
    std::memcpy(&value, from + 4 * i, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, from + 2 * i, 2);
  return type == Element::float16 ? float_of_float16(bits) : float_of_bfloat16(bits);
}

/// `count` elements from one type to another.
void convert(const std::byte* from, Element type, size_t count, Element to_type, std::byte* to) {
  if (type == to_type) {
    std::memcpy(to, from, count * bytes_of(type));
    return;
  }
  for (size_t i = 0; i < count; ++i) {
    const float value = widened(from, type, i);
    if (to_type == Element::float32) {
      std::memcpy(to + 4 * i, &value, 4);
    } else {
      const uint16_t bits = to_type == Element::float16 ? float16_of_float(value) : bfloat16_of_float(value);
      std::memcpy(to + 2 * i, &bits, 2);
    }
  }
}

}  // namespace

Staging::Staging(Stream stream) : stream_(stream) {
  for (Side& side : sides_) {
    side.buffer = PinnedArray<std::byte>(bytes, "loading weights");
    side.copied = make_event();
  }
}

Staging::~Staging() {
  for (Side& side : sides_) {
    try {
      if (side.used) wait(side.copied);
    } catch (...) {  // the device has failed: the load is failing with that already
    }
    if (side.copied) free_event(side.copied);
  }
}

std::byte* Staging::next() {
  turn_ ^= 1;
  if (sides_[turn_].used) wait(sides_[turn_].copied);
  return sides_[turn_].buffer.get();
}

void Staging::send(std::byte* to, size_t count) {
  copy_to_device(to, sides_[turn_].buffer.get(), count, stream_);
  record(sides_[turn_].copied, stream_);
  sides_[turn_].used = true;
}

MatrixRef upload_matrix(const TensorSource& source, Element compute, Staging& staging) {
  auto matrix = std::make_shared<DeviceMatrix>();
  matrix->rows = source.rows, matrix->columns = source.columns;
  matrix->type = source.rows == 1 ? Element::float32 : compute;
  matrix->stride = (source.columns + 7) / 8 * 8;
  const size_t from_element = bytes_of(source.type), element = bytes_of(matrix->type);
  const size_t from_row = size_t(source.columns) * from_element, row = size_t(matrix->stride) * element;
  matrix->data = allocate_shared(size_t(source.rows) * row, "the weights");

  std::vector<std::byte> raw;
  auto* to = static_cast<std::byte*>(matrix->data.get());
  const int64_t rows_at_once = std::max<int64_t>(1, int64_t(Staging::bytes / std::max(row, from_row)));
  if (std::max(row, from_row) > Staging::bytes)
    throw Error(Code::model_invalid, "a weight row of " + std::to_string(source.columns) + " columns is too wide for the device");
  const bool plain = source.type == matrix->type && from_row == row;
  for (int64_t first = 0; first < source.rows; first += rows_at_once) {
    const size_t count = size_t(std::min(rows_at_once, source.rows - first)), offset = size_t(first) * from_row;
    std::byte* buffer = staging.next();
    const std::byte* from = source.mapped ? static_cast<const std::byte*>(source.mapped) + offset : nullptr;
    if (!from && plain) {
      source.read(offset, count * from_row, buffer);
    } else {
      if (!from) {
        raw.resize(count * from_row);
        source.read(offset, raw.size(), raw.data());
        from = raw.data();
      }
      for (size_t r = 0; r < count; ++r) {
        convert(from + r * from_row, source.type, size_t(source.columns), matrix->type, buffer + r * row);
        std::memset(buffer + r * row + size_t(source.columns) * element, 0, row - size_t(source.columns) * element);
      }
    }
    staging.send(to + size_t(first) * row, count * row);
  }
  return matrix;
}

}  // namespace chai::cuda
