// Hazards in shared memory, as compute-sanitizer's racecheck looks for them, warp by warp. In: accesses, and what hands over between warps.
// Out: a Fault where two warps touch the same bytes, one of them writing, with nothing that orders them. Clocks as in FastTrack (Flanagan,
// Freund, PLDI 2009).
#include <algorithm>

#include "warp.h"

namespace ptx {

Hazards::Hazards(Block& block, uint32_t bytes)
    : cells_((bytes + 1) / 2), reads_((bytes + 1) / 2 * block.warps.size(), 0), warps_(block.warps.size()) {}

void Hazards::join(std::vector<uint32_t>& into, const std::vector<uint32_t>& from) {
  for (size_t i = 0; i < into.size() && i < from.size(); ++i) into[i] = std::max(into[i], from[i]);
}

void Hazards::read(Warp& w, uint32_t offset, uint32_t bytes, const Op& op, int lane, bool by_products) {
  const auto self = uint32_t(w.index);
  for (uint32_t c = offset / 2; c < (offset + bytes + 1) / 2; ++c) {
    Cell& cell = cells_[c];
    if (cell.writer != none) {
      const bool ordered = cell.writer == self ? lane < 0 || cell.lane < 0 || cell.lane == lane || cell.written_at < w.lane_clock
                                               : cell.written <= w.clock[cell.writer];
      if (!ordered && !(cell.how == atomic && op.atomic)) clash(w, op, lane, "reads", "wrote", c, cell.writer, cell.line);
      if (by_products && cell.how != asynchronous && w.block->warps[cell.writer].fenced < cell.written)
        clash(w, op, lane, "a product reads without fence.proxy.async", "wrote", c, cell.writer, cell.line);
    }
    reads_[c * warps_ + self] = w.clock[self];
    if (lane < 0) continue;
    if (cell.reader != self || cell.read_at != w.lane_clock) cell.read_lanes = 0;
    cell.reader = self, cell.read_at = w.lane_clock, cell.read_line = op.line;
    cell.read_lanes |= 1u << lane;
  }
}

void Hazards::write(Warp& w, uint32_t offset, uint32_t bytes, const Op& op, int lane, Write how) {
  const auto self = uint32_t(w.index);
  for (uint32_t c = offset / 2; c < (offset + bytes + 1) / 2; ++c) {
    Cell& cell = cells_[c];
    // Several may write the same: racecheck calls that harmless as well.
    if (how == same_value && cell.writer != none && (cell.writer != self || cell.lane != lane)) continue;
    const bool both_atomic = cell.how == atomic && how == atomic;
    if (cell.writer != none && !both_atomic) {
      const bool ordered = cell.writer == self ? lane < 0 || cell.lane < 0 || cell.lane == lane || cell.written_at < w.lane_clock
                                               : cell.written <= w.clock[cell.writer];
      if (!ordered) clash(w, op, lane, "writes", "wrote", c, cell.writer, cell.line);
    }
    for (uint32_t other = 0; other < warps_; ++other)
      if (other != self && reads_[c * warps_ + other] > w.clock[other] && !both_atomic)
        clash(w, op, lane, "writes", "read", c, other, cell.read_line);
    if (lane >= 0 && cell.reader == self && cell.read_at == w.lane_clock && (cell.read_lanes & ~(1u << lane)) && !both_atomic)
      clash(w, op, lane, "writes", "read", c, self, cell.read_line);
    cell.writer = self, cell.written = w.clock[self], cell.line = op.line, cell.how = how;
    cell.lane = int8_t(lane), cell.written_at = w.lane_clock;
  }
}

void Hazards::clash(Warp& w, const Op& op, int lane, const char* does, const char* did, uint32_t cell, uint32_t other, uint32_t line) {
  w.fault(FaultKind::hazard,
          std::string(does) + " shared memory at " + std::to_string(2 * cell) + " that " +
              (other == uint32_t(w.index) ? "another lane of the warp " : "warp " + std::to_string(other) + " ") + did +
              ", with nothing between that orders them, at PTX line " + std::to_string(line) + ": " + w.block->kernel->text_of(line),
          &op, lane);
}

}  // namespace ptx
