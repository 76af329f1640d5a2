// Tensor maps of the emulated driver. In: cuTensorMapEncodeTiled's arguments. Out: 128 bytes that cp.async.bulk.tensor understands.
#pragma once
#include <cuda.h>

extern "C" CUresult ptx_tensor_map_encode_tiled(CUtensorMap* tensorMap, CUtensorMapDataType tensorDataType, cuuint32_t tensorRank,
                                                void* globalAddress, const cuuint64_t* globalDim, const cuuint64_t* globalStrides,
                                                const cuuint32_t* boxDim, const cuuint32_t* elementStrides,
                                                CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                                CUtensorMapL2promotion l2Promotion, CUtensorMapFloatOOBfill oobFill);

namespace ptx {

struct TensorMap {
  uint64_t magic;
  uint64_t address;
  uint64_t strides[4];  // bytes, of dimensions 1 to 4
  uint32_t last[5];     // sizes less 1
  uint8_t box[5];       // less 1
  uint8_t steps[5];
  uint8_t rank, type, element_bytes, interleave, swizzle, fill;
  uint8_t spare[40];
  uint32_t check;
  uint32_t sum() const;
  /// Bytes of a line that the swizzle works in; 0: none.
  uint32_t span() const { return swizzle == CU_TENSOR_MAP_SWIZZLE_NONE ? 0 : 16u << swizzle; }
};
static_assert(sizeof(TensorMap) <= sizeof(CUtensorMap));

constexpr uint64_t tensor_map_magic = 0x70616d2d78747021ull;

}  // namespace ptx
