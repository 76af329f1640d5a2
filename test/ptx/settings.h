// What the environment says about the emulated device. In: PTX_... variables, read once. Out: numbers.
#pragma once
#include <string>

#include "warp.h"

namespace ptx {

struct Settings {
  int capability = 90;       // PTX_CAPABILITY: 80 or 90
  int processors = 132;      // PTX_PROCESSORS
  int most_shared = 232448;  // of a block
  int processor_shared = 233472;
  bool late = true;            // PTX_LATE: work runs when something waits for it; 0: when it is enqueued
  bool early = true;           // PTX_EARLY: kernels that may start early do
  uint64_t early_blocks = 64;  // PTX_EARLY_BLOCKS: of such a kernel at most
  Schedule schedule;           // PTX_SEED, PTX_LATE_COPIES, PTX_HAZARDS, PTX_BLOCKS
  std::string blocks_of;       // PTX_BLOCKS_OF: kernels that PTX_BLOCKS is about, by a part of their name; empty: all
  std::string report;          // PTX_REPORT: file that gets a line at the end of the process
  std::string counts;          // PTX_COUNT: file that gets what counters.h counts
};
const Settings& settings();

}  // namespace ptx
