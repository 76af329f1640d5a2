// State of a running block. In: a kernel, a launch. Out: what operations read and change.
#pragma once
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "fault.h"
#include "grid_hazards.h"
#include "memory.h"
#include "program.h"

namespace ptx {

struct Block;
struct Counters;

/// Calls f(lane) for each lane of a mask.
template <class F>
inline void each_lane(uint32_t mask, F f) {
  for (; mask; mask &= mask - 1) f(__builtin_ctz(mask));
}

/// Order in which things happen that a device leaves open. The same seed gives the same order.
struct Schedule {
  unsigned seed = 0;        // 0: warps in turn; else drawn
  bool late_copies = true;  // asynchronous copies land when they are waited for; else when they start
  bool check_hazards = false;
  uint64_t most_blocks =
      0;  // of a grid: the first, the last, and others drawn; 0: all. For faults of large shapes, whose results are wrong then
};

enum class Space : uint8_t { generic, global, shared, local, parameter };

struct PendingCopy {
  uint8_t* to;
  const uint8_t* from;
  uint32_t to_offset;     // in shared memory
  uint32_t group;         // of the lane's groups
  uint8_t bytes, filled;  // copied, and after them zeros up to this many
  uint8_t lane;
};

struct Warp {
  Block* block = nullptr;
  int index = 0;
  uint8_t* registers = nullptr;
  std::vector<uint8_t> register_file, local;
  uint32_t live = 0;    // lanes that have not exited
  uint32_t active = 0;  // lanes at `pc`; of the others each has its own
  uint32_t pc = 0;
  uint32_t lane_pc[32] = {};
  uint32_t parked = 0;   // lanes that wait at a collective for others
  bool waiting = false;  // at a barrier of the block, or for the kernel before
  bool paused = false;   // let others run, then go on
  uint32_t carry = 0;    // condition code, a bit a lane
  // asynchronous copies
  std::vector<PendingCopy> copies;
  uint32_t groups[32] = {};  // cp.async groups committed
  // hazards: this warp's clock of every warp, and when it last made its writes visible to the asynchronous proxy
  std::vector<uint32_t> clock;
  uint32_t fenced = 0;
  uint32_t lane_clock = 1;  // counts what orders the lanes of the warp among each other
  GridOrder order;          // the same of warps of other blocks
  bool waited = false;      // for the kernel before
  // wgmma: what is under way (hopper.cpp)
  std::shared_ptr<void> products;

  template <class T>
  T* at(Place place) {
    return reinterpret_cast<T*>(registers + place);
  }
  uint32_t& predicate(Place place) { return *reinterpret_cast<uint32_t*>(registers + place); }
  /// Address of a lane: its register plus the operation's offset.
  uint64_t address(const Op& op, int lane) {
    return (op.wide_address ? at<uint64_t>(op.a)[lane] : uint64_t(at<uint32_t>(op.a)[lane])) + uint64_t(op.offset);
  }
  /// Checks an access of a lane and gives the host's address of it; a plain write to shared memory is told to `hazards` by who makes it.
  /// `bytes` at most 16, a power of two: also the alignment. Throws Fault.
  uint8_t* access(Space space, uint64_t address, uint32_t bytes, int lane, bool write, const Op& op);
  [[noreturn]] void fault(FaultKind kind, const std::string& what, const Op* op = nullptr, int lane = -1);
};

struct Barrier {
  uint32_t arrived = 0, expected = 0;  // threads
  std::vector<int> warps;              // that wait
};

class Hazards;

struct Block {
  const Kernel* kernel = nullptr;
  Schedule schedule;
  uint32_t id[3] = {}, dims[3] = {}, threads = 0;
  uint32_t number = 0;  // in the grid
  std::vector<Warp> warps;
  std::vector<uint8_t> shared_memory;
  uint8_t* shared = nullptr;  // aligned to 1024 bytes; offset 0 of the shared window
  uint32_t shared_bytes = 0;  // offsets from shared_start up to here are the block's
  const uint8_t* parameters = nullptr;
  Barrier barriers[16];
  std::shared_ptr<Hazards> hazards;                     // null: not checked
  GridHazards* grid = nullptr;                          // null: not checked
  std::map<uint32_t, std::shared_ptr<void>> mbarriers;  // by shared offset (hopper.cpp)
  bool early = false;                                   // the kernel may begin before the one before it has ended
  bool may_pass_wait = true;                            // griddepcontrol.wait goes on
  Counters* counts = nullptr;                           // null: nothing is counted
  bool done() const;
};
/// The first bytes of the shared window belong to the system, as on sm_90.
constexpr uint32_t shared_start = 1024;

/// Shared memory accesses and what orders them: barriers and mbarriers hand over what a warp has seen, __syncwarp what its lanes have.
class Hazards {
 public:
  Hazards(Block& block, uint32_t bytes);
  /// lane -1: by the warp as a whole, as products and tensor copies do.
  void read(Warp& warp, uint32_t offset, uint32_t bytes, const Op& op, int lane, bool by_products = false);
  /// asynchronous: by a tensor copy, which products see without a fence.
  enum Write : uint8_t { plain, same_value, atomic, asynchronous };
  void write(Warp& warp, uint32_t offset, uint32_t bytes, const Op& op, int lane, Write how = plain);
  static void join(std::vector<uint32_t>& into, const std::vector<uint32_t>& from);
  /// All that the warp did so far is before what others do after they joined its clock.
  static void advance(Warp& warp) { ++warp.clock[size_t(warp.index)]; }

 private:
  struct Cell {
    uint32_t writer = 0xffffffffu, written = 0, line = 0;
    Write how = plain;
    int8_t lane = -1;
    // lanes of warp `reader` that read since its lane_clock was `read_at`; of the last warp that read
    uint32_t written_at = 0, reader = 0xffffffffu, read_lanes = 0, read_at = 0, read_line = 0;
  };
  static constexpr uint32_t none = 0xffffffffu;
  [[noreturn]] static void clash(Warp& warp, const Op& op, int lane, const char* does, const char* did, uint32_t cell, uint32_t other,
                                 uint32_t line);
  std::vector<Cell> cells_;      // of each two bytes
  std::vector<uint32_t> reads_;  // cell * warps + warp: clock of its last read
  size_t warps_;
};

struct Launch {
  uint32_t grid[3] = {1, 1, 1}, block[3] = {1, 1, 1};
  uint32_t shared_bytes = 0;        // dynamic
  bool early = false;               // its blocks may begin before the kernel before it has run
  std::vector<uint8_t> parameters;  // laid out as Kernel::parameters
  Schedule schedule;
};

/// A launched kernel. With begin(), every block first runs up to its griddepcontrol.wait: what an early launch may do while the kernel
/// before still runs. finish() runs all to the end. Throws Fault.
class Execution {
 public:
  Execution(const Kernel& kernel, Launch launch);
  ~Execution();
  void begin();
  /// early: begun behind this one, or null.
  void finish(const Execution* early = nullptr);

 private:
  std::unique_ptr<Block> make_block(uint32_t x, uint32_t y, uint32_t z);
  void prepare(Block& block, uint32_t x, uint32_t y, uint32_t z);
  const Kernel& kernel_;
  Launch launch_;
  std::shared_ptr<Counters> counts_;
  std::unique_ptr<GridHazards> grid_;  // null: not checked
  std::vector<std::unique_ptr<Block>> begun_;
};

/// `bar.sync id, threads`: the warp waits until so many threads have come; 0: all of the block.
void arrive_at_barrier(Warp& warp, uint32_t id, uint32_t threads, const Op& op);
/// Lands the copies of the lanes in `mask` that are not among the last `pending` groups.
void land_copies(Warp& warp, uint32_t mask, uint32_t pending, bool uncommitted_too, const Op& op);

/// Runs a block until all its warps are done, or wait for the kernel before. Throws Fault.
void run_block(Block& block);

}  // namespace ptx
