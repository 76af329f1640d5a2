// Copies of boxes of tensors to shared memory. In: cp.async.bulk.tensor statements, maps from tensor_map. Out: bytes at swizzled places,
// zeros where the tensor ends, bytes reported to a barrier in shared memory. PTX ISA 5.5 (tensors), 9.7.9.27.
#include "tensor_copy.h"

#include "counters.h"
#include "hopper.h"

namespace ptx {

namespace {

/// Operation's further places: address registers of destination, map, barrier; whether they are wide; their offsets; coordinates.
enum More {
  to_register,
  map_register,
  barrier_register,
  to_wide,
  map_wide,
  barrier_wide,
  to_offset,
  map_offset,
  barrier_offset,
  coordinates
};

struct Box {
  TensorMap map;
  int64_t at[5] = {};
  uint32_t to = 0, bytes = 0, line_bytes = 0;
};

uint64_t address_of(Warp& warp, const Op& op, int which, int lane) {
  const Place* places = &warp.block->kernel->places[op.more];
  const uint64_t base = places[to_wide + which] ? warp.at<uint64_t>(places[which])[lane] : warp.at<uint32_t>(places[which])[lane];
  return base + uint64_t(int64_t(int32_t(places[to_offset + which])));
}

TensorMap map_at(Warp& warp, uint64_t address, const Op& op, int lane) {
  const auto parameters = reinterpret_cast<uint64_t>(warp.block->parameters);
  const bool parameter = address - parameters < warp.block->kernel->parameter_bytes;
  if (parameter && address - parameters + sizeof(CUtensorMap) > warp.block->kernel->parameter_bytes)
    warp.fault(FaultKind::illegal_address, "a tensor map that reaches beyond the parameters", &op, lane);
  if (!parameter && !DeviceMemory::instance().valid_range(reinterpret_cast<const void*>(address), sizeof(CUtensorMap)))
    warp.fault(FaultKind::illegal_address, "a tensor map in neither parameters nor global memory", &op, lane);
  if ((parameter ? address - parameters : address) % 64)
    warp.fault(FaultKind::misaligned_address, "a tensor map off its 64 bytes", &op, lane);
  TensorMap map;
  std::memcpy(&map, reinterpret_cast<const void*>(address), sizeof map);
  if (map.magic != tensor_map_magic || map.check != map.sum())
    warp.fault(FaultKind::illegal_instruction, "no tensor map is here", &op, lane);
  return map;
}

/// A line's bytes from global memory, zeros where it is outside of the tensor.
void read_line(Warp& warp, const Box& box, const int64_t (&at)[5], uint8_t* line, const Op& op, int lane) {
  const TensorMap& map = box.map;
  std::memset(line, 0, box.line_bytes);
  uint64_t from = map.address;
  for (int i = 1; i < map.rank; ++i) {
    if (at[i] < 0 || at[i] > int64_t(map.last[i])) return;
    from += uint64_t(at[i]) * map.strides[i - 1];
  }
  const int64_t first = std::max<int64_t>(at[0], 0), end = std::min<int64_t>(at[0] + map.box[0] + 1, int64_t(map.last[0]) + 1);
  if (first >= end) return;
  uint8_t* to = line + (first - at[0]) * map.element_bytes;
  from += uint64_t(first) * map.element_bytes;
  if (warp.block->counts) warp.block->counts->tensor_line(op, warp, from, uint64_t(end - first) * map.element_bytes);
  for (uint64_t left = uint64_t(end - first) * map.element_bytes; left > 0;) {
    const uint64_t bytes = std::min(left, 128 - from % 128);
    if (!DeviceMemory::instance().valid(from, bytes))
      warp.fault(FaultKind::illegal_address, "a tensor copy reads memory that is not allocated", &op, lane);
    if (warp.block->grid) warp.block->grid->read(warp, from, uint32_t(bytes), op, -1, GridHazards::asynchronous);
    std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
    to += bytes, from += bytes, left -= bytes;
  }
}

/// The swizzle exchanges 16-byte chunks within a line: their number becomes it xor the line's, both bits of the address in shared memory.
uint32_t swizzled(uint32_t address, uint32_t span) { return span ? address ^ ((address >> 7 & (span / 16 - 1)) << 4) : address; }

void land(Warp& warp, const Box& box, bool poisoned, const Op& op, int lane) {
  uint8_t* shared = warp.block->shared;
  std::vector<uint8_t> line(box.line_bytes);
  uint32_t to = box.to;
  int64_t at[5];
  for (int i = 0; i < 5; ++i) at[i] = box.at[i];
  for (bool more = true; more;) {
    read_line(warp, box, at, line.data(), op, lane);
    for (uint32_t i = 0; i < box.line_bytes; i += 16) {
      const uint32_t place = swizzled(to + i, box.map.span());
      for (uint32_t k = 0; poisoned && k < 16; ++k)
        if (shared[place + k] != 0xff) warp.fault(FaultKind::hazard, "something wrote where a tensor copy was under way to", &op, lane);
      std::memcpy(shared + place, &line[i], 16);
    }
    to += box.line_bytes;
    more = false;
    for (int i = 1; i < box.map.rank && !more; ++i) {
      more = ++at[i] <= box.at[i] + box.map.box[i];
      if (!more) at[i] = box.at[i];
    }
  }
}

void run_copy(Warp& warp, const Op& op, uint32_t mask) {
  Block& block = *warp.block;
  each_lane(mask, [&](int lane) {
    Box box;
    box.map = map_at(warp, address_of(warp, op, map_register, lane), op, lane);
    if (box.map.rank != op.width) warp.fault(FaultKind::illegal_instruction, "the tensor map has another rank", &op, lane);
    if (box.map.interleave != CU_TENSOR_MAP_INTERLEAVE_NONE || box.map.fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
      throw Unsupported("a tensor copy with interleave or NaN to fill with");
    box.line_bytes = (box.map.box[0] + 1u) * box.map.element_bytes;
    if (box.map.span() && box.map.address % 128)  // CUDA C++ Programming Guide, requirements of swizzle modes
      warp.fault(FaultKind::hazard, "a tensor copy with a swizzle from memory that is not aligned to 128 bytes", &op, lane);
    if (box.map.span() && box.map.span() != box.line_bytes) throw Unsupported("a tensor copy of boxes narrower than the swizzle's span");
    box.bytes = box.line_bytes;
    for (int i = 0; i < box.map.rank; ++i) {
      box.at[i] = int32_t(warp.at<uint32_t>(block.kernel->places[op.more + coordinates + uint32_t(i)])[lane]);
      if (i > 0) box.bytes *= box.map.box[i] + 1u;
      if (box.map.steps[i] != 1) throw Unsupported("a tensor copy with element strides");
    }
    const uint64_t to = address_of(warp, op, to_register, lane);
    uint8_t* memory = shared_at(warp, to, box.bytes, 128, op, lane, "a tensor copy's destination");
    box.to = uint32_t(to);
    Mbarrier& barrier = mbarrier_at(warp, address_of(warp, op, barrier_register, lane), op, lane);
    if (!barrier.fenced)
      warp.fault(FaultKind::hazard,
                 "a tensor copy's mbarrier was not made visible to it: fence.mbarrier_init or fence.proxy.async is missing", &op, lane);
    Landing landing;
    landing.bytes = box.bytes;
    if (block.hazards) {
      block.hazards->write(warp, box.to, box.bytes, op, -1, Hazards::asynchronous);
      landing.clock.assign(warp.clock.size(), 0);
      landing.clock[size_t(warp.index)] = warp.clock[size_t(warp.index)];
      Hazards::advance(warp);
    }
    if (!block.schedule.late_copies) {
      land(warp, box, false, op, lane);
      complete_bytes(warp, barrier, landing, op, lane);
      return;
    }
    std::memset(memory, 0xff, box.bytes);
    landing.land = [&warp, &op, box, lane] { land(warp, box, true, op, lane); };
    barrier.landings.push_back(std::move(landing));
  });
}

void run_prefetch(Warp& warp, const Op& op, uint32_t mask) {
  each_lane(mask, [&](int lane) { map_at(warp, warp.address(op, lane), op, lane); });
}

}  // namespace

bool decode_tensor_copy(Decoder& decoder, const Statement& statement, Op& op) {
  const auto& operands = statement.operands;
  if (statement.has("prefetch") && statement.has("tensormap")) {
    if (operands.size() != 1 || statement.code.size() > 3) decoder.refuse("a prefetch of this form");
    op.run = run_prefetch;
    decoder.address(op, operands[0]);
    return true;
  }
  if (!statement.has("cp") || !statement.has("bulk")) return false;
  const std::string code = statement.opcode(), before = "cp.async.bulk.tensor.";
  const bool cluster = code.find(".shared::cluster.") != std::string::npos;
  const std::string after = std::string("d.shared::") + (cluster ? "cluster" : "cta") + ".global.tile.mbarrier::complete_tx::bytes";
  if (operands.size() != 3 || code.size() != before.size() + 1 + after.size() || code.substr(0, before.size()) != before ||
      code.substr(before.size() + 1) != after)
    decoder.refuse("a bulk copy of this form");
  op.width = uint8_t(code[before.size()] - '0');
  std::vector<Place> bases, wide, offsets, places;
  for (const Operand& operand : operands) {
    Op part;
    Operand address = operand;
    address.parts.clear();
    decoder.address(part, address);
    bases.push_back(part.a), wide.push_back(part.wide_address), offsets.push_back(uint32_t(part.offset));
  }
  for (const auto* list : {&bases, &wide, &offsets}) places.insert(places.end(), list->begin(), list->end());
  std::vector<Operand> at = operands[1].parts;
  if (at.size() == 1 && at[0].what == Operand::vector) at = std::vector<Operand>(at[0].parts);
  if (at.size() != op.width || op.width < 1 || op.width > 5) decoder.refuse("another number of coordinates than of dimensions");
  for (const Operand& coordinate : at) places.push_back(decoder.place(coordinate, 4));
  op.run = run_copy, op.yields = true;
  op.more = decoder.more(places), op.more_count = uint32_t(places.size());
  return true;
}

}  // namespace ptx
