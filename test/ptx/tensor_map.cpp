// cuTensorMapEncodeTiled of the emulated driver. In: its arguments. Out: a map of our own form, or the error of a driver that checks each
// rule written at the function in cuda.h (13.0).
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#include "tensor_copy.h"

namespace ptx {
namespace {

struct Wrong {
  std::string why;
};
void need(bool right, const std::string& why) {
  if (!right) throw Wrong{why};
}

uint8_t bytes_of(CUtensorMapDataType type) {
  switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8: return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16: return 2;
    case CU_TENSOR_MAP_DATA_TYPE_UINT32:
    case CU_TENSOR_MAP_DATA_TYPE_INT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32_FTZ:
    case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32:
    case CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ: return 4;
    case CU_TENSOR_MAP_DATA_TYPE_UINT64:
    case CU_TENSOR_MAP_DATA_TYPE_INT64:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT64: return 8;
    default: throw Wrong{"a data type that sm_90 does not have"};
  }
}
bool is_integer(CUtensorMapDataType type) {
  return type <= CU_TENSOR_MAP_DATA_TYPE_INT64;  // the first six; floating point follows
}

TensorMap encode(CUtensorMapDataType type, uint32_t rank, uint64_t address, const cuuint64_t* sizes, const cuuint64_t* strides,
                 const cuuint32_t* box, const cuuint32_t* steps, CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                 CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill) {
  TensorMap map;
  std::memset(&map, 0, sizeof map);
  map.element_bytes = bytes_of(type);
  need(rank >= 1 && rank <= 5, "a rank other than 1 to 5");
  need(unsigned(interleave) <= CU_TENSOR_MAP_INTERLEAVE_32B, "an unknown interleave");
  need(unsigned(swizzle) <= CU_TENSOR_MAP_SWIZZLE_128B, "a swizzle that sm_90 does not have");
  need(unsigned(promotion) <= CU_TENSOR_MAP_L2_PROMOTION_L2_256B, "an unknown L2 promotion");
  need(unsigned(fill) <= CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA, "an unknown fill");
  need(fill == CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE || !is_integer(type), "NaN to fill with, but a type of integers");
  need(interleave == CU_TENSOR_MAP_INTERLEAVE_NONE || rank >= 3, "interleave with less than three dimensions");
  need(interleave != CU_TENSOR_MAP_INTERLEAVE_32B || swizzle == CU_TENSOR_MAP_SWIZZLE_32B,
       "32-byte interleave without the 32-byte swizzle");
  const uint64_t unit = interleave == CU_TENSOR_MAP_INTERLEAVE_32B ? 32 : 16;
  need(address != 0 && address % unit == 0, "the address is null or not a multiple of " + std::to_string(unit));
  need(sizes && box && steps && (strides || rank == 1), "a null array");
  for (uint32_t i = 0; i < rank; ++i) {
    const std::string which = " of dimension " + std::to_string(i);
    need(sizes[i] >= 1 && sizes[i] <= uint64_t{1} << 32, "the size" + which + " is not 1 to 2^32");
    need(box[i] >= 1 && box[i] <= 256, "the box" + which + " is not 1 to 256");
    need((i == 0 && interleave == CU_TENSOR_MAP_INTERLEAVE_NONE) || (steps[i] >= 1 && steps[i] <= 8),
         "the element stride" + which + " is not 1 to 8");
    map.last[i] = uint32_t(sizes[i] - 1), map.box[i] = uint8_t(box[i] - 1), map.steps[i] = uint8_t(i == 0 ? 1 : steps[i]);
  }
  uint64_t inner = sizes[0] * map.element_bytes;
  for (uint32_t i = 0; i + 1 < rank; ++i) {
    const std::string which = "the stride of dimension " + std::to_string(i + 1);
    need(strides[i] % unit == 0 && strides[i] < uint64_t{1} << 40, which + " is not a multiple of " + std::to_string(unit) + " below 2^40");
    // "Each following dimension includes previous dimension stride": a formula, with any padding.
    need(strides[i] >= inner, which + " is less than what it has to hold");
    need(i == 0 || strides[i] % strides[i - 1] == 0, which + " is not a multiple of the one before");
    map.strides[i] = strides[i];
    inner = strides[i] * sizes[i + 1];
  }
  if (interleave == CU_TENSOR_MAP_INTERLEAVE_NONE) {
    const uint32_t bytes = box[0] * map.element_bytes;
    need(bytes % 16 == 0, "the box's lines are not multiples of 16 bytes");
    need(swizzle == CU_TENSOR_MAP_SWIZZLE_NONE || bytes <= 16u << swizzle, "the box's lines are longer than the swizzle's");
  }
  map.magic = tensor_map_magic, map.address = address;
  map.rank = uint8_t(rank), map.type = uint8_t(type), map.interleave = uint8_t(interleave), map.swizzle = uint8_t(swizzle),
  map.fill = uint8_t(fill);
  map.check = map.sum();
  return map;
}

}  // namespace

uint32_t TensorMap::sum() const {
  TensorMap copy = *this;
  copy.check = 0;
  uint8_t bytes[sizeof copy];
  std::memcpy(bytes, &copy, sizeof copy);
  uint32_t hash = 2166136261u;
  for (const uint8_t byte : bytes) hash = (hash ^ byte) * 16777619u;
  return hash;
}

}  // namespace ptx

extern "C" CUresult ptx_tensor_map_encode_tiled(CUtensorMap* tensorMap, CUtensorMapDataType tensorDataType, cuuint32_t tensorRank,
                                                void* globalAddress, const cuuint64_t* globalDim, const cuuint64_t* globalStrides,
                                                const cuuint32_t* boxDim, const cuuint32_t* elementStrides,
                                                CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                                CUtensorMapL2promotion l2Promotion, CUtensorMapFloatOOBfill oobFill) {
  try {
    ptx::need(tensorMap && reinterpret_cast<uintptr_t>(tensorMap) % 64 == 0, "the map's own address is null or not a multiple of 64");
    const ptx::TensorMap map = ptx::encode(tensorDataType, tensorRank, reinterpret_cast<uintptr_t>(globalAddress), globalDim, globalStrides,
                                           boxDim, elementStrides, interleave, swizzle, l2Promotion, oobFill);
    std::memcpy(tensorMap, &map, sizeof map);
    return CUDA_SUCCESS;
  } catch (const ptx::Wrong& wrong) {
    std::fprintf(stderr, "ptx: cuTensorMapEncodeTiled: %s\n", wrong.why.c_str());
    return CUDA_ERROR_INVALID_VALUE;
  }
}
