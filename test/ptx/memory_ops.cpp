// Loads, stores, atomics, asynchronous copies, fences. In: addresses in registers. Out: memory and registers; every access is checked.
#include <algorithm>

#include "counters.h"
#include "decoder.h"
#include "lanes.h"

namespace ptx {
namespace {

Space space_of(const Statement& s) {
  for (const std::string& part : s.code) {
    if (part == "global" || part == "const") return Space::global;
    if (part == "shared" || part == "shared::cta") return Space::shared;
    if (part == "local") return Space::local;
  }
  return Space::generic;  // parameters lie in memory of their own, those of calls in local memory
}

struct Element {
  uint8_t bytes = 4;
  bool is_signed = false;
};
Element element_of(Decoder& decoder, const std::string& type) {
  const int bits = type.size() > 1 ? std::atoi(type.c_str() + 1) : 0;
  if (bits != 8 && bits != 16 && bits != 32 && bits != 64) decoder.refuse("an element of this type");
  return {uint8_t(bits / 8), type[0] == 's'};
}

// op.type: bytes of an element, and these bits.
constexpr uint8_t sign_bit = 16, wide_bit = 32;

uint64_t read_element(const uint8_t* from, uint8_t type) {
  uint64_t value = 0;
  const bool is_signed = type & sign_bit;
  switch (type & 15) {
    case 1: value = is_signed ? uint64_t(int64_t(int8_t(*from))) : *from; break;
    case 2: {
      uint16_t v;
      std::memcpy(&v, from, 2);
      value = is_signed ? uint64_t(int64_t(int16_t(v))) : v;
      break;
    }
    case 4: {
      uint32_t v;
      std::memcpy(&v, from, 4);
      value = is_signed ? uint64_t(int64_t(int32_t(v))) : v;
      break;
    }
    default: std::memcpy(&value, from, 8);
  }
  return value;
}

template <Space space>
void load(Warp& w, const Op& op, uint32_t mask) {
  const Place* places = &w.block->kernel->places[op.more];
  const uint32_t bytes = op.type & 15u, count = op.more_count;
  if (w.block->counts) w.block->counts->memory(w, op, mask, space, bytes * count, Access::load);
  each_lane(mask, [&](int lane) {
    const uint8_t* from = w.access(space, w.address(op, lane), bytes * count, lane, false, op);
    if (bytes == 4 && !(op.type & wide_bit)) {
      for (uint32_t k = 0; k < count; ++k)
        if (places[k] != nowhere) std::memcpy(&w.at<uint32_t>(places[k])[lane], from + 4 * k, 4);
      return;
    }
    for (uint32_t k = 0; k < count; ++k) {
      if (places[k] == nowhere) continue;
      const uint64_t value = read_element(from + bytes * k, op.type);
      if (op.type & wide_bit)
        w.at<uint64_t>(places[k])[lane] = value;
      else
        w.at<uint32_t>(places[k])[lane] = uint32_t(value);
    }
  });
}
void tell_write(Warp& w, const uint8_t* to, const uint8_t* words, uint32_t bytes, const Op& op, int lane) {
  const auto offset = uint64_t(to - w.block->shared);
  const Hazards::Write how = std::memcmp(to, words, bytes) == 0 ? Hazards::same_value : Hazards::plain;
  if (offset < w.block->shared_bytes) w.block->hazards->write(w, uint32_t(offset), bytes, op, lane, how);
}
template <Space space>
void store(Warp& w, const Op& op, uint32_t mask) {
  const Place* places = &w.block->kernel->places[op.more];
  const uint32_t bytes = op.type & 15u, count = op.more_count;
  if (w.block->counts) w.block->counts->memory(w, op, mask, space, bytes * count, Access::store);
  each_lane(mask, [&](int lane) {
    uint8_t* to = w.access(space, w.address(op, lane), bytes * count, lane, true, op);
    uint8_t words[32];
    for (uint32_t k = 0; k < count; ++k) {
      const uint64_t value = op.type & wide_bit ? w.at<uint64_t>(places[k])[lane] : w.at<uint32_t>(places[k])[lane];
      std::memcpy(words + bytes * k, &value, sizeof value);
    }
    if (w.block->hazards) tell_write(w, to, words, bytes * count, op, lane);
    std::memcpy(to, words, bytes * count);
  });
}

enum Atomic : uint8_t { add, most, least, exchange, compare_and_swap, bit_and, bit_or, bit_xor, increment, decrement };

template <class T>
T combine(uint8_t what, T old, T b, T c) {
  switch (what) {
    case add: return T(old + b);
    case most: return std::max(old, b);
    case least: return std::min(old, b);
    case exchange: return b;
    case compare_and_swap: return old == b ? c : old;
    case increment: return old >= b ? T(0) : T(old + 1);
    case decrement: return old == 0 || old > b ? b : T(old - 1);
    default: break;
  }
  if constexpr (std::is_integral_v<T>) {
    if (what == bit_and) return T(old & b);
    if (what == bit_or) return T(old | b);
    if (what == bit_xor) return T(old ^ b);
  }
  return old;
}
template <class T, Space space>
void atomic(Warp& w, const Op& op, uint32_t mask) {
  using Word = typename Slot<T>::Word;
  if (w.block->counts) w.block->counts->memory(w, op, mask, space, sizeof(T), Access::atomic);
  each_lane(mask, [&](int lane) {
    uint8_t* at = w.access(space, w.address(op, lane), sizeof(T), lane, true, op);
    T old;
    std::memcpy(&old, at, sizeof(T));
    const T b = Slot<T>::load(w.at<Word>(op.b)[lane]), c = op.c == nowhere ? T{} : Slot<T>::load(w.at<Word>(op.c)[lane]);
    const T next = combine(op.type, old, b, c);
    std::memcpy(at, &next, sizeof(T));
    if (op.d != nowhere) w.at<Word>(op.d)[lane] = Slot<T>::store(old);
  });
}
template <class T>
Run atomic_of(Space space) {
  return space == Space::shared ? atomic<T, Space::shared> : space == Space::global ? atomic<T, Space::global> : atomic<T, Space::generic>;
}

/// [shared], [global], bytes, source bytes. width: bytes; places: address of the source, source bytes (or nowhere).
void start_copy(Warp& w, const Op& op, uint32_t mask) {
  const Place* places = &w.block->kernel->places[op.more];
  if (w.block->counts) w.block->counts->copy(w, op, mask);
  each_lane(mask, [&](int lane) {
    const uint64_t offset = w.address(op, lane);
    uint8_t* to = w.access(Space::shared, offset, op.width, lane, true, op);
    const uint64_t from = w.at<uint64_t>(places[0])[lane] + uint64_t(op.target);
    const uint32_t bytes = places[1] == nowhere ? op.width : w.at<uint32_t>(places[1])[lane];
    if (bytes > op.width) w.fault(FaultKind::illegal_instruction, "more bytes to copy than there is room for", &op, lane);
    if (from % op.width) w.fault(FaultKind::misaligned_address, "source of an asynchronous copy", &op, lane);
    if (bytes && !DeviceMemory::instance().valid(from, bytes))
      w.fault(FaultKind::illegal_address, "source of an asynchronous copy", &op, lane);
    if (w.block->grid && bytes) w.block->grid->read(w, from, bytes, op, lane);
    w.copies.push_back(
        {to, reinterpret_cast<const uint8_t*>(from), uint32_t(offset), w.groups[lane], uint8_t(bytes), op.width, uint8_t(lane)});
    if (w.block->hazards) w.block->hazards->write(w, uint32_t(offset), op.width, op, lane);
    if (w.block->schedule.late_copies) {
      std::memset(to, 0xff, op.width);
    } else {
      std::memcpy(to, reinterpret_cast<const uint8_t*>(from), bytes);
      std::memset(to + bytes, 0, op.width - bytes);
    }
  });
}
void commit_copies(Warp& w, const Op&, uint32_t mask) {
  each_lane(mask, [&](int lane) { ++w.groups[lane]; });
}
void wait_for_copies(Warp& w, const Op& op, uint32_t mask) { land_copies(w, mask, uint32_t(op.offset), op.type, op); }

void nothing(Warp&, const Op&, uint32_t) {}
void fence(Warp& w, const Op&, uint32_t) {
  if (w.block->grid) GridHazards::fence(w);
}
void trap(Warp& w, const Op& op, uint32_t mask) { w.fault(FaultKind::trap, "trap", &op, __builtin_ctz(mask)); }

bool decode_copy(Decoder& decoder, const Statement& s, Op& op) {
  if (s.has("commit_group")) {
    op.run = commit_copies;
    return true;
  }
  if (s.has("wait_group") || s.has("wait_all")) {
    op.run = wait_for_copies;
    op.type = s.has("wait_all");
    op.offset = op.type ? 0 : int64_t(s.operands.at(0).bits);
    return true;
  }
  if (s.has("bulk") || !s.has("global")) return false;
  decoder.address(op, s.operands.at(0));
  Op source;
  decoder.address(source, s.operands.at(1));
  if (!source.wide_address || source.offset < 0) decoder.refuse("a source of this kind");
  op.target = uint32_t(source.offset);
  op.width = uint8_t(s.operands.at(2).bits);
  op.more = decoder.more({source.a, s.operands.size() > 3 ? decoder.place(s.operands[3], 4) : nowhere});
  op.run = start_copy;
  return true;
}

bool decode_atomic(Decoder& decoder, const Statement& s, Op& op) {
  static const std::pair<const char*, Atomic> names[] = {
      {"add", add},     {"max", most},  {"min", least},   {"exch", exchange}, {"cas", compare_and_swap},
      {"and", bit_and}, {"or", bit_or}, {"xor", bit_xor}, {"inc", increment}, {"dec", decrement}};
  bool known = false;
  for (const auto& [name, what] : names)
    if (s.has(name)) op.type = what, known = true;
  if (!known) return false;
  for (const char* other : {"acquire", "release", "acq_rel", "cta", "cluster"})  // GridHazards knows neither these orders nor scopes
    if (s.has(other)) decoder.refuse("an atomic of this kind");
  const std::string& type = s.code.back();
  const Space space = space_of(s);
  if (type == "u32" || type == "b32")
    op.run = atomic_of<uint32_t>(space);
  else if (type == "s32")
    op.run = atomic_of<int32_t>(space);
  else if (type == "u64" || type == "b64")
    op.run = atomic_of<uint64_t>(space);
  else if (type == "s64")
    op.run = atomic_of<int64_t>(space);
  else if (type == "f32")
    op.run = atomic_of<float>(space);
  else if (type == "f64")
    op.run = atomic_of<double>(space);
  else
    return false;
  const size_t first = s.code[0] == "red" ? 0 : 1;
  const int bytes = register_bytes(type);
  if (first) op.d = decoder.place(s.operands.at(0), bytes);
  decoder.address(op, s.operands.at(first));
  op.b = decoder.place(s.operands.at(first + 1), bytes);
  if (s.operands.size() > first + 2) op.c = decoder.place(s.operands[first + 2], bytes);
  op.atomic = true;
  return true;
}

}  // namespace

void land_copies(Warp& w, uint32_t mask, uint32_t pending, bool uncommitted_too, const Op& op) {
  auto kept = w.copies.begin();
  for (const PendingCopy& copy : w.copies) {
    const bool lands =
        (mask >> copy.lane & 1) && (uncommitted_too || (w.groups[copy.lane] >= pending && copy.group < w.groups[copy.lane] - pending));
    if (!lands) {
      *kept++ = copy;
      continue;
    }
    if (w.block->schedule.late_copies) {
      if (copy.bytes && !DeviceMemory::instance().valid(reinterpret_cast<uint64_t>(copy.from), copy.bytes))
        w.fault(FaultKind::illegal_address, "source of an asynchronous copy, freed meanwhile", &op, copy.lane);
      if (w.block->grid && copy.bytes) w.block->grid->read(w, reinterpret_cast<uint64_t>(copy.from), copy.bytes, op, copy.lane);
      std::memcpy(copy.to, copy.from, copy.bytes);
      std::memset(copy.to + copy.bytes, 0, size_t(copy.filled - copy.bytes));
    }
    if (w.block->hazards) w.block->hazards->write(w, copy.to_offset, copy.filled, op, copy.lane);
  }
  w.copies.erase(kept, w.copies.end());
}

bool decode_memory(Decoder& decoder, const Statement& s, Op& op) {
  const std::string& name = s.code[0];
  if (name == "ld" || name == "st") {
    const bool is_load = name == "ld";
    const Element element = element_of(decoder, s.code.back());
    const Operand& data = s.operands.at(is_load ? 0 : 1);
    decoder.address(op, s.operands.at(is_load ? 1 : 0));
    std::vector<Operand> parts = data.what == Operand::vector ? data.parts : std::vector<Operand>{data};
    bool wide = false;
    for (const Operand& part : parts) wide |= decoder.bytes_of(part, element.bytes == 8 ? 8 : 4) == 8;
    std::vector<Place> places;
    for (const Operand& part : parts) {
      if (part.what != Operand::none && (decoder.bytes_of(part, wide ? 8 : 4) == 8) != wide) decoder.refuse("registers of several sizes");
      places.push_back(decoder.place(part, wide ? 8 : 4));
    }
    op.type = uint8_t(element.bytes | (element.is_signed ? sign_bit : 0) | (wide ? wide_bit : 0));
    op.more = decoder.more(places);
    op.more_count = uint32_t(places.size());
    op.constant = s.has("nc");
    switch (space_of(s)) {
      case Space::global: op.run = is_load ? load<Space::global> : store<Space::global>; break;
      case Space::shared: op.run = is_load ? load<Space::shared> : store<Space::shared>; break;
      case Space::local: op.run = is_load ? load<Space::local> : store<Space::local>; break;
      default: op.run = is_load ? load<Space::generic> : store<Space::generic>;
    }
    return true;
  }
  if (name == "atom" || name == "red") return decode_atomic(decoder, s, op);
  if (name == "cp" && s.has("async")) return decode_copy(decoder, s, op);
  if (name == "membar" || (name == "fence" && s.has("sc"))) {
    const bool for_device = s.code.back() == "gl" || s.code.back() == "sys" || s.code.back() == "gpu";
    op.run = for_device ? fence : nothing;
    return true;
  }
  if (name == "prefetch" && !s.has("tensormap")) {
    op.run = nothing;
    return true;
  }
  if (name == "trap") {
    op.run = trap;
    return true;
  }
  return false;
}

}  // namespace ptx
