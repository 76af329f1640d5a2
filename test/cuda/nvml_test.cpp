// Free memory of devices nobody opened. In: a stand-in for NVML, and on a device the machine's own. Out: bytes, and what was asked.
#include "nvml.h"

#include <vector>

#include "check.h"

namespace chai::cuda {
namespace {

struct Asked {
  std::vector<std::string> uuids;
  std::string known;
  bool has_memory = true;
} asked;

const NvmlCalls standin = {
    [](const char* uuid, void** device) {
      asked.uuids.emplace_back(uuid);
      *device = &asked;
      return asked.known == uuid ? 0 : 6;  // NVML_ERROR_NOT_FOUND
    },
    [](void* device, NvmlMemory* memory) {
      *memory = {80000, 70000, 10000};
      return asked.has_memory && device == &asked ? 0 : 3;  // NVML_ERROR_NOT_SUPPORTED
    },
};

constexpr unsigned char uuid[16] = {0x8c, 0x7e, 0x1c, 0x57, 0x00, 0x0a, 0xb1, 0x2c, 0x3d, 0x4e, 0x5f, 0x60, 0x71, 0x82, 0x93, 0xff};
const std::string words = "8c7e1c57-000a-b12c-3d4e-5f60718293ff";

}  // namespace

TEST(cuda_free_memory_by_nvml_is_of_the_device_or_the_part_with_this_uuid) {
  for (const std::string kind : {"GPU-", "MIG-"}) {
    asked = {};
    asked.known = kind + words;
    CHECK(free_bytes_by_nvml(standin, uuid) == 70000u);
    CHECK(asked.uuids.back() == kind + words);
  }
}

TEST(cuda_what_nvml_does_not_know_is_left_open) {
  asked = {};
  CHECK(!free_bytes_by_nvml(standin, uuid));  // no device of that name
  CHECK(asked.uuids.size() == 2);
  asked = {};
  asked.known = "GPU-" + words, asked.has_memory = false;  // memory shared with the host
  CHECK(!free_bytes_by_nvml(standin, uuid));
}

}  // namespace chai::cuda
