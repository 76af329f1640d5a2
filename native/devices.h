// The devices a model can be loaded on. In: the machine. Out: one entry a device, unusable ones with the reason; the CPU is always first.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace chai {

struct Device {
  std::string id;      // "cpu"; "cuda:0" and so on for those a CUDA build finds
  std::string name;    // as the maker calls it
  std::string reason;  // why it cannot be used; empty when it can
  uint64_t total_bytes = 0, free_bytes = 0;
  std::string detail;  // CPU: instruction set chosen and physical cores
};

/// Where no CUDA device can be used, one entry "cuda" says why.
std::vector<Device> devices();

}  // namespace chai
