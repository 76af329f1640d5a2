// What kernels ask of memory, counted. In: every memory operation of a warp, every executed operation. Out: with PTX_COUNT, a file of JSON
// at the end of the process (counters_report.cpp). Sectors are 32 bytes of global memory; wavefronts are passes through the 32 banks of
// shared memory, as on sm_80 and sm_90.
#pragma once
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "warp.h"

namespace ptx {

enum class Access : uint8_t { load, store, atomic };

/// Of an operation, or of many.
struct Traffic {
  uint64_t requests = 0;  // one for each operation of a warp
  uint64_t bytes = 0;     // different ones that its lanes ask for
  uint64_t parts = 0;     // sectors or wavefronts
  uint64_t ideal = 0;     // sectors that so many bytes fit in; wavefronts without conflicts
  Traffic& operator+=(const Traffic& other) {
    requests += other.requests, bytes += other.bytes, parts += other.parts, ideal += other.ideal;
    return *this;
  }
};

/// Sectors that a launch touches.
class Sectors {
 public:
  void touch(uint64_t sector, uint32_t block);
  uint64_t in_launch = 0;  // different ones
  uint64_t in_blocks = 0;  // different ones of each block, all blocks' added up
  void add(const Sectors& other) { in_launch += other.in_launch, in_blocks += other.in_blocks; }

 private:
  static constexpr uint64_t page = 2048;
  std::unordered_map<uint64_t, std::unique_ptr<uint32_t[]>> pages_;  // of each sector the block that touched it last
  uint64_t last_ = ~uint64_t{0};
  uint32_t* stamps_ = nullptr;  // of page last_
};

struct Counters {
  uint64_t launches = 0, blocks = 0, tensor_bytes = 0;  // tensor_bytes: by tensor copies
  std::vector<uint64_t> executed;                       // these by operation of the kernel
  std::vector<Traffic> global, shared, copied;          // copied: asynchronous copies' writes to shared memory
  std::vector<Access> access;
  Sectors read, written;

  explicit Counters(size_t operations)
      : executed(operations), global(operations), shared(operations), copied(operations), access(operations) {}
  /// `bytes` of each lane in `mask`, at its address.
  void memory(Warp& warp, const Op& op, uint32_t mask, Space space, uint32_t bytes, Access what);
  /// An asynchronous copy to shared memory.
  void copy(Warp& warp, const Op& op, uint32_t mask);
  void matrices(Warp& warp, const Op& op);
  void tensor_line(const Op& op, const Warp& warp, uint64_t from, uint64_t bytes);
  void add(const Counters& launch);

 private:
  void touch(Traffic& to, const Warp& warp, const uint64_t* addresses, const uint32_t* bytes, uint32_t mask, Access what);
};

/// Null: nothing is counted. What is counted is added to the kernel's when the last owner goes.
std::shared_ptr<Counters> counts_of_launch(const Kernel& kernel);

/// What the report needs of a kernel; it may live longer.
struct CountedKernel {
  std::string name;
  std::shared_ptr<const std::string> text;
  std::vector<uint32_t> lines;  // in the text, of each operation
  Counters counts{0};
};
/// JSON of all of them.
std::string report_of(const std::vector<const CountedKernel*>& kernels);

}  // namespace ptx
