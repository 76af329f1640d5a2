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

/// Where no CUDA device can be used, one entry "cuda" says why. `wish`, as the option `device` of a model: only what it may mean is asked,
/// and a GPU that it cannot mean sleeps on. Without one: all, and none is opened for it where that can be avoided.
std::vector<Device> devices(const std::string& wish = "");

}  // namespace chai
