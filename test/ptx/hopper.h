// What the Hopper instructions of a block share. In: a block, a warp. Out: its barriers in shared memory, what its warpgroups have
// executed. Written from NVIDIA's documents alone (PTX ISA 9.0, CUTLASS, cuda.h), apart from test/simt.
#pragma once
#include <deque>
#include <functional>

#include "decoder.h"
#include "warp.h"

namespace ptx {

/// A tensor copy that has not landed.
struct Landing {
  std::function<void()> land;
  uint32_t bytes;
  std::vector<uint32_t> clock;  // with hazards: who waits for it has seen its writes
};

struct Mbarrier {
  uint32_t expected = 0, pending = 0;  // arrivals of a phase; still to come
  int64_t bytes = 0;                   // the tx-count
  uint64_t phase = 0;
  bool observed = false;  // somebody saw the phase before this one complete
  bool fenced = false;    // the initialization is visible to the asynchronous proxy
  int by_warp = 0;        // that initialized it
  uint32_t lanes = 0;
  std::deque<Landing> landings;
  std::vector<uint32_t> open, closed;  // clocks of those who arrived in this phase; in the phase before it
};

/// Instructions that all warps of a warpgroup have to execute alike, in the order of the first warp that came to them.
struct WarpgroupSteps {
  struct Step {
    uint32_t line;
    uint64_t a, b;
  };
  std::deque<Step> steps;
  uint64_t first = 0;  // number of steps[0]
  uint64_t seen[4] = {};
};

struct HopperBlock {
  std::map<uint32_t, WarpgroupSteps> groups;
  std::vector<uint32_t> registers;  // of each warp's threads, after setmaxnreg; 0: not yet
};

HopperBlock& hopper_block(Block& block);
/// One more instruction of the warp's warpgroup: a Fault when the others executed another one or are gone. `a`, `b`: to be alike as well.
void step_warpgroup(Warp& warp, const Op& op, uint64_t a = 0, uint64_t b = 0);
/// Host address of bytes in the block's shared memory. Throws Fault.
uint8_t* shared_at(Warp& warp, uint64_t address, uint32_t bytes, uint32_t alignment, const Op& op, int lane, const char* what);

/// The barrier at an address; a Fault when none is there or something else wrote over it.
Mbarrier& mbarrier_at(Warp& warp, uint64_t address, const Op& op, int lane);
/// Copies brought bytes: perhaps the phase is over.
void complete_bytes(Warp& warp, Mbarrier& barrier, const Landing& landing, const Op& op, int lane);
/// A fence by this warp: barriers that its lanes initialized are visible to copies.
void fence_mbarriers(Warp& warp, uint32_t mask);

bool decode_products(Decoder& decoder, const Statement& statement, Op& op);     // wgmma
bool decode_mbarrier(Decoder& decoder, const Statement& statement, Op& op);     // mbarrier
bool decode_tensor_copy(Decoder& decoder, const Statement& statement, Op& op);  // cp.async.bulk.tensor, prefetch.tensormap

/// For a warp that ends, all its lanes: a Fault when products of it are under way, or its warpgroup executed some without it.
void leave_hopper(Warp& warp);
/// For a block that ends: a Fault when tensor copies to it are under way.
void finish_hopper(Block& block);

}  // namespace ptx
