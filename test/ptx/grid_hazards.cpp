// Who touched which bytes of device memory, and what orders them; see grid_hazards.h.
#include "grid_hazards.h"

#include <algorithm>

#include "warp.h"

namespace ptx {
namespace {

void join(Clocks& into, const Clocks& from) {
  for (const auto& [block, clocks] : from) {
    auto& mine = into[block];
    if (mine.empty()) mine.resize(clocks.size(), 0);
    Hazards::join(mine, clocks);
  }
}

constexpr const char* unordered = ", with nothing between that orders them";
constexpr const char* in_this_grid = " in this very grid";
constexpr const char* too_early = " in a kernel that began early, before its griddepcontrol.wait";

}  // namespace

void GridOrder::join(const GridOrder& other) {
  ptx::join(seen, other.seen);
  ptx::join(released, other.released);
  ptx::join(met, other.met);
}

void GridHazards::fence(Warp& w) {
  join(w.order.seen, w.order.met);
  w.order.met.clear();
  w.order.released = w.order.seen;
  w.order.released[w.block->number] = w.clock;
  Hazards::advance(w);
}

void GridHazards::meet(Warp& w, uint64_t address) {
  Clocks& here = handed_on_[address];
  join(w.order.met, here);
  join(here, w.order.released);
}

void GridHazards::read(Warp& w, uint64_t address, uint32_t bytes, const Op& op, int lane, How how) {
  const uint32_t self = number(w);
  for (uint64_t at = address / cell_bytes * cell_bytes; at < address + bytes; at += cell_bytes) {
    Cell& cell = cell_at(at);
    if (cell.write.warp != none) {
      if (how == constant) clash(w, op, lane, "reads, as constant,", "wrote", at, cell.write, *this, in_this_grid);
      if (how == asynchronous) clash(w, op, lane, "reads, by a tensor copy,", "wrote", at, cell.write, *this, in_this_grid);
      if (!write_is_ordered(w, cell, lane)) clash(w, op, lane, "reads", "wrote", at, cell.write, *this, unordered);
    }
    if (early_)
      if (const Cell* ahead = early_->find(at); ahead && ahead->write.warp != none)
        clash(w, op, lane, "reads", "wrote", at, ahead->write, *early_, too_early);
    if (cell.read.warp != self) {
      const uint32_t block = w.block->number;
      if (cell.read.warp != none &&
          (cell.other_read.warp == none || cell.read.warp / warps_ != block || cell.other_read.warp / warps_ == block))
        cell.other_read = cell.read;
      cell.read_lanes = 0;
    }
    if (cell.read_at != w.lane_clock) cell.read_lanes = 0;
    cell.read = {self, w.clock[size_t(w.index)], op.line};
    cell.read_at = w.lane_clock;
    if (lane >= 0) cell.read_lanes |= 1u << lane;
  }
}

void GridHazards::write(Warp& w, uint64_t address, uint32_t bytes, const Op& op, int lane, How how) {
  const uint32_t self = number(w);
  for (uint64_t at = address / cell_bytes * cell_bytes; at < address + bytes; at += cell_bytes) {
    Cell& cell = cell_at(at);
    const bool both_atomic = cell.by_atomic && how == atomic;
    if (cell.write.warp != none && !both_atomic && !write_is_ordered(w, cell, lane))
      clash(w, op, lane, "writes", "wrote", at, cell.write, *this, unordered);
    for (const Access& reading : {cell.read, cell.other_read})
      if (reading.warp != none && reading.warp != self && !ordered(w, reading))
        clash(w, op, lane, "writes", "read", at, reading, *this, unordered);
    if (cell.read.warp == self && cell.read_at == w.lane_clock && lane >= 0 && (cell.read_lanes & ~(1u << lane)))
      clash(w, op, lane, "writes", "read", at, cell.read, *this, unordered);
    if (early_)
      if (const Cell* ahead = early_->find(at); ahead && (ahead->write.warp != none || ahead->read.warp != none)) {
        const bool wrote = ahead->write.warp != none;
        clash(w, op, lane, "writes", wrote ? "wrote" : "read", at, wrote ? ahead->write : ahead->read, *early_, too_early);
      }
    cell.write = {self, w.clock[size_t(w.index)], op.line};
    cell.written_at = w.lane_clock, cell.write_lane = int8_t(lane), cell.by_atomic = how == atomic;
  }
}

uint32_t GridHazards::number(const Warp& w) const { return w.block->number * warps_ + uint32_t(w.index); }

bool GridHazards::ordered(const Warp& w, const Access& before) const {
  const uint32_t block = before.warp / warps_, warp = before.warp % warps_;
  if (block == w.block->number) return before.clock <= w.clock[warp];
  const auto known = w.order.seen.find(block);
  return known != w.order.seen.end() && before.clock <= known->second[warp];
}

/// The last write to a cell. What a lane's own atomic read is before what that lane does next.
bool GridHazards::write_is_ordered(const Warp& w, const Cell& cell, int lane) const {
  if (cell.write.warp != number(w)) return ordered(w, cell.write);
  return lane < 0 || cell.write_lane < 0 || cell.write_lane == lane || cell.written_at < w.lane_clock;
}

GridHazards::Cell& GridHazards::cell_at(uint64_t address) {
  if (address / page_bytes != last_page_) {
    Page& page = pages_[address / page_bytes];
    if (page.empty()) page.resize(page_bytes / cell_bytes);
    last_page_ = address / page_bytes, last_cells_ = page.data();
  }
  return last_cells_[address % page_bytes / cell_bytes];
}

const GridHazards::Cell* GridHazards::find(uint64_t address) const {
  const auto page = pages_.find(address / page_bytes);
  return page == pages_.end() ? nullptr : &page->second[address % page_bytes / cell_bytes];
}

void GridHazards::clash(Warp& w, const Op& op, int lane, const char* does, const char* did, uint64_t address, const Access& other,
                        const GridHazards& of, const char* why) const {
  char where[32];
  std::snprintf(where, sizeof where, "0x%llx", static_cast<unsigned long long>(address));
  std::string who = "warp " + std::to_string(other.warp % of.warps_) + " of block " + std::to_string(other.warp / of.warps_);
  if (&of == this && other.warp == number(w)) who = "another lane of the warp";
  w.fault(FaultKind::hazard,
          std::string(does) + " device memory at " + where + " that " + who + " " + did + why + ", at PTX line " +
              std::to_string(other.line) + ": " + of.kernel_.text_of(other.line),
          &op, lane);
}

}  // namespace ptx
