// Tensor maps: what a device's copy engine must know of the pool of head pages (compute capability 9.0 and later).
// In: address, page and row bytes. Out: a map for dev::copy_box, whose boxes are 64 rows by 64 elements, swizzled by 128 bytes.
#pragma once
#include "dev.cuh"
#include "element.h"

namespace chai::cuda {

/// Whether the driver can make them.
bool tensor_maps_work();
/// Pages [0, pages) of page_rows rows of row_bytes, 16-bit elements of `type`; base and page_bytes are multiples of 16. Throws
/// device_fault.
dev::TensorMap map_of_pages(const void* base, uint64_t page_bytes, uint64_t row_bytes, uint64_t pages, Element type);

}  // namespace chai::cuda
