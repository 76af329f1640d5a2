// Tensor maps through the driver; see tensor_map.h. The driver's function is looked up, so that nothing needs to be linked.
#include <cuda.h>

#include <cstring>

#include "error.h"
#include "runtime.h"
#include "step_view.cuh"
#include "tensor_map.h"

namespace chai::cuda {
namespace {

static_assert(sizeof(dev::TensorMap) == sizeof(CUtensorMap) && alignof(dev::TensorMap) >= alignof(CUtensorMap));

using Encode = decltype(&cuTensorMapEncodeTiled);

Encode driver_function() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
#if CUDART_VERSION >= 12050
  const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
#else
  const cudaError_t status = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
  cudaGetLastError();
  return status == cudaSuccess && result == cudaDriverEntryPointSuccess ? reinterpret_cast<Encode>(found) : nullptr;
}

}  // namespace

bool tensor_maps_work() { return driver_function() != nullptr; }

dev::TensorMap map_of_pages(const void* base, uint64_t page_bytes, uint64_t row_bytes, uint64_t pages, Element type) {
  const Encode encode = driver_function();
  CUtensorMap map{};
  const cuuint64_t sizes[3] = {row_bytes / 2, page_rows, pages}, strides[2] = {row_bytes, page_bytes};
  const cuuint32_t box[3] = {64, page_rows, 1}, steps[3] = {1, 1, 1};
  const CUresult status = encode
                              ? encode(&map, type == Element::bfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                                       3, const_cast<void*>(base), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                       CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
                              : CUDA_ERROR_NOT_SUPPORTED;
  if (status != CUDA_SUCCESS)
    throw Error(Code::device_fault, "CUDA: the driver refuses a tensor map of the K/V pages (CUresult " + std::to_string(int(status)) +
                                        "); load the model without the prefill kernel for Hopper");
  dev::TensorMap out;
  std::memcpy(&out, &map, sizeof out);
  return out;
}

}  // namespace chai::cuda
