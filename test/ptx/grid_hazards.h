// Hazards in device memory: within a grid, and between a grid and one that begins early behind it. In: accesses, fences, atomics. Out: a
// Fault where two touch the same bytes, one of them writing, with nothing that orders them. Between blocks a fence, an atomic and a fence
// order (PTX manual, 8.10: a release pattern, observation, an acquire pattern); within one also what hazards.cpp knows.
#pragma once
#include <cstdint>
#include <map>
#include <unordered_map>
#include <vector>

namespace ptx {

struct Warp;
struct Op;
struct Kernel;

/// By blocks: up to which of its clock each warp is known.
using Clocks = std::map<uint32_t, std::vector<uint32_t>>;

/// What a warp knows of other blocks, and what it can hand on. A barrier makes one of those of its warps.
struct GridOrder {
  Clocks seen;      // is before all that the warp does
  Clocks released;  // was before its last fence: its atomics hand this on
  Clocks met;       // was handed on by others' atomics that its own came behind; seen from the next fence on
  void join(const GridOrder& other);
  bool empty() const { return seen.empty() && released.empty() && met.empty(); }
};

class GridHazards {
 public:
  GridHazards(const Kernel& kernel, uint32_t warps_of_block) : kernel_(kernel), warps_(warps_of_block) {}
  /// How bytes are touched. constant: by a load that may miss what the grid itself wrote. asynchronous: by a tensor copy, likewise.
  enum How : uint8_t { plain, atomic, constant, asynchronous };
  void read(Warp& warp, uint64_t address, uint32_t bytes, const Op& op, int lane, How how = plain);
  void write(Warp& warp, uint64_t address, uint32_t bytes, const Op& op, int lane, How how = plain);
  /// An atomic of this warp on this address: hands on what was released, and takes what others did.
  void meet(Warp& warp, uint64_t address);
  /// A fence for the whole device, sequentially consistent. Of part of the warp's lanes, it orders more than it should.
  static void fence(Warp& warp);
  /// A grid whose blocks have run up to their waits: this one runs beside them. Null: none.
  void beside(const GridHazards* early) { early_ = early; }

 private:
  static constexpr uint32_t none = 0xffffffffu;
  struct Access {
    uint32_t warp = none;  // counted over the grid
    uint32_t clock = 0, line = 0;
  };
  struct Cell {
    Access write, read, other_read;  // the last ones; other_read: of another block if there is one, else of another warp
    uint32_t written_at = 0, read_at = 0, read_lanes = 0;  // clocks of the lanes, as in Hazards
    int8_t write_lane = -1;
    bool by_atomic = false;
  };
  static constexpr uint32_t cell_bytes = 2, page_bytes = 256;
  using Page = std::vector<Cell>;

  uint32_t number(const Warp& warp) const;
  bool ordered(const Warp& warp, const Access& before) const;
  bool write_is_ordered(const Warp& warp, const Cell& cell, int lane) const;
  Cell& cell_at(uint64_t address);
  const Cell* find(uint64_t address) const;
  /// of: the grid whose access the other is.
  [[noreturn]] void clash(Warp& warp, const Op& op, int lane, const char* does, const char* did, uint64_t address, const Access& other,
                          const GridHazards& of, const char* why) const;

  const Kernel& kernel_;
  const uint32_t warps_;
  std::unordered_map<uint64_t, Page> pages_;  // by address / page_bytes
  uint64_t last_page_ = ~uint64_t{0};
  Cell* last_cells_ = nullptr;
  std::unordered_map<uint64_t, Clocks> handed_on_;  // by address
  const GridHazards* early_ = nullptr;
};

}  // namespace ptx
