// Moves, selections, comparisons and conversions of single lanes. In: words of registers. Out: words and predicates.
#include <limits>
#include <unordered_map>

#include "decoder.h"
#include "halves.h"
#include "lanes.h"

namespace ptx {
namespace {

void move32(Warp& w, const Op& op, uint32_t mask) {
  auto *d = w.at<uint32_t>(op.d), *a = w.at<uint32_t>(op.a);
  over_lanes(mask, [&](int i) { d[i] = a[i]; });
}
void move64(Warp& w, const Op& op, uint32_t mask) {
  auto *d = w.at<uint64_t>(op.d), *a = w.at<uint64_t>(op.a);
  over_lanes(mask, [&](int i) { d[i] = a[i]; });
}
void move_predicate(Warp& w, const Op& op, uint32_t mask) {
  const uint32_t a = w.predicate(op.a);
  uint32_t& d = w.predicate(op.d);
  d = (d & ~mask) | (a & mask);
}
/// Two or four words into one; type: bits of each. more: the words from the lowest on.
void pack(Warp& w, const Op& op, uint32_t mask) {
  const Place* parts = &w.block->kernel->places[op.more];
  each_lane(mask, [&](int i) {
    uint64_t all = 0;
    for (uint32_t k = 0; k < op.more_count; ++k) {
      const uint64_t part = w.at<uint32_t>(parts[k])[i];
      all |= (op.type == 32 ? part : part & ((uint64_t{1} << op.type) - 1)) << (k * op.type);
    }
    if (op.width == 8)
      w.at<uint64_t>(op.d)[i] = all;
    else
      w.at<uint32_t>(op.d)[i] = uint32_t(all);
  });
}
void unpack(Warp& w, const Op& op, uint32_t mask) {
  const Place* parts = &w.block->kernel->places[op.more];
  each_lane(mask, [&](int i) {
    const uint64_t all = op.width == 8 ? w.at<uint64_t>(op.a)[i] : w.at<uint32_t>(op.a)[i];
    for (uint32_t k = 0; k < op.more_count; ++k)
      if (parts[k] != nowhere) w.at<uint32_t>(parts[k])[i] = uint32_t(all >> (k * op.type) & ((uint64_t{1} << op.type) - 1));
  });
}
template <class Word>
void select(Warp& w, const Op& op, uint32_t mask) {
  const uint32_t which = w.predicate(op.c);
  auto *d = w.at<Word>(op.d), *a = w.at<Word>(op.a), *b = w.at<Word>(op.b);
  over_lanes(mask, [&](int i) { d[i] = which & (1u << i) ? a[i] : b[i]; });
}

enum Compare { eq, ne, lt, le, gt, ge, num, nan };
template <class T, Compare how, bool unordered>
void compare(Warp& w, const Op& op, uint32_t mask) {
  const auto *a = w.at<typename Slot<T>::Word>(op.a), *b = w.at<typename Slot<T>::Word>(op.b);
  uint32_t r = 0;
  for (int i = 0; i < 32; ++i) {
    const T x = Slot<T>::load(a[i]), y = Slot<T>::load(b[i]);
    bool is = false;
    const bool no_order = x != x || y != y;
    switch (how) {
      case eq: is = x == y; break;
      case ne: is = x != y && !no_order; break;
      case lt: is = x < y; break;
      case le: is = x <= y; break;
      case gt: is = x > y; break;
      case ge: is = x >= y; break;
      case num: is = !no_order; break;
      case nan: is = no_order; break;
    }
    if (unordered) is |= no_order;
    r |= uint32_t(is) << i;
  }
  uint32_t& d = w.predicate(op.d);
  d = (d & ~mask) | (r & mask);
}

using Table = std::unordered_map<std::string, Run>;
template <class T>
void comparisons(Table& t, const std::string& type) {
  t["eq." + type] = compare<T, eq, false>;
  t["ne." + type] = compare<T, ne, false>;
  t["lt." + type] = t["lo." + type] = compare<T, lt, false>;
  t["le." + type] = t["ls." + type] = compare<T, le, false>;
  t["gt." + type] = t["hi." + type] = compare<T, gt, false>;
  t["ge." + type] = t["hs." + type] = compare<T, ge, false>;
  if constexpr (std::is_floating_point_v<T>) {
    t["equ." + type] = compare<T, eq, true>;
    t["neu." + type] = compare<T, ne, true>;
    t["ltu." + type] = compare<T, lt, true>;
    t["leu." + type] = compare<T, le, true>;
    t["gtu." + type] = compare<T, gt, true>;
    t["geu." + type] = compare<T, ge, true>;
    t["num." + type] = compare<T, num, false>;
    t["nan." + type] = compare<T, nan, false>;
  }
}
Table comparison_table() {
  Table t;
  comparisons<int16_t>(t, "s16");
  comparisons<uint16_t>(t, "u16");
  comparisons<uint16_t>(t, "b16");
  comparisons<int32_t>(t, "s32");
  comparisons<uint32_t>(t, "u32");
  comparisons<uint32_t>(t, "b32");
  comparisons<int64_t>(t, "s64");
  comparisons<uint64_t>(t, "u64");
  comparisons<uint64_t>(t, "b64");
  comparisons<float>(t, "f32");
  comparisons<double>(t, "f64");
  return t;
}

// ---- conversions ----
template <class D>
struct Cast {
  template <class A>
  D operator()(A a) const {
    return static_cast<D>(a);
  }
};
enum class Round { nearest, zero, down, up };
template <Round how, class T>
T round_to_integer(T a) {
  switch (how) {
    case Round::nearest: return std::nearbyint(a);
    case Round::zero: return std::trunc(a);
    case Round::down: return std::floor(a);
    default: return std::ceil(a);
  }
}
template <Round how, class D>
struct ToInteger {  // saturates; not a number gives 0
  template <class A>
  D operator()(A a) const {
    if (a != a) return 0;
    const A r = round_to_integer<how>(a);
    if (r <= static_cast<A>(std::numeric_limits<D>::min())) return std::numeric_limits<D>::min();
    if (r >= static_cast<A>(std::numeric_limits<D>::max())) return std::numeric_limits<D>::max();
    return static_cast<D>(r);
  }
};
template <Round how>
struct RoundTo {
  template <class A>
  A operator()(A a) const {
    return round_to_integer<how>(a);
  }
};
struct Saturate {
  template <class A>
  A operator()(A a) const {
    return a > 0 ? (a < 1 ? a : A(1)) : A(0);
  }
};
struct FromHalf {
  float operator()(uint16_t a) const { return from_half(a); }
};
struct FromBfloat {
  float operator()(uint16_t a) const { return from_bfloat(a); }
};
struct ToHalf {
  uint16_t operator()(float a) const { return to_half(a); }
};
struct ToBfloat {
  uint16_t operator()(float a) const { return to_bfloat(a); }
};
struct ToHalves {
  uint32_t operator()(float a, float b) const { return uint32_t(to_half(a)) << 16 | to_half(b); }
};
struct ToBfloats {
  uint32_t operator()(float a, float b) const { return uint32_t(to_bfloat(a)) << 16 | to_bfloat(b); }
};

/// Of a 64-bit register, of which the conversion takes the low part.
template <class D, class A>
void narrowed(Warp& w, const Op& op, uint32_t mask) {
  auto* d = w.at<typename Slot<D>::Word>(op.d);
  const auto* a = w.at<uint64_t>(op.a);
  over_lanes(mask, [&](int i) { d[i] = Slot<D>::store(static_cast<D>(static_cast<A>(a[i]))); });
}
template <class A>
void from_wide(Table& t, const std::string& a) {
  t["wide.u16." + a] = narrowed<uint16_t, A>;
  t["wide.s16." + a] = narrowed<int16_t, A>;
  t["wide.u32." + a] = narrowed<uint32_t, A>;
  t["wide.s32." + a] = narrowed<int32_t, A>;
  t["wide.u64." + a] = narrowed<uint64_t, A>;
  t["wide.s64." + a] = narrowed<int64_t, A>;
  t["wide.rn.f32." + a] = narrowed<float, A>;
}

template <class A>
void from_integer(Table& t, const std::string& a) {
  t["u8." + a] = run1<uint8_t, A, Cast<uint8_t>>;
  t["s8." + a] = run1<int8_t, A, Cast<int8_t>>;
  t["u16." + a] = run1<uint16_t, A, Cast<uint16_t>>;
  t["s16." + a] = run1<int16_t, A, Cast<int16_t>>;
  t["u32." + a] = run1<uint32_t, A, Cast<uint32_t>>;
  t["s32." + a] = run1<int32_t, A, Cast<int32_t>>;
  t["u64." + a] = run1<uint64_t, A, Cast<uint64_t>>;
  t["s64." + a] = run1<int64_t, A, Cast<int64_t>>;
  t["rn.f32." + a] = run1<float, A, Cast<float>>;
  t["rn.f64." + a] = run1<double, A, Cast<double>>;
}
template <Round how, class A>
void rounded(Table& t, const std::string& how_name, const std::string& a) {
  const std::string r = how_name + ".";
  t[r + "u16." + a] = run1<uint16_t, A, ToInteger<how, uint16_t>>;
  t[r + "s16." + a] = run1<int16_t, A, ToInteger<how, int16_t>>;
  t[r + "u32." + a] = run1<uint32_t, A, ToInteger<how, uint32_t>>;
  t[r + "s32." + a] = run1<int32_t, A, ToInteger<how, int32_t>>;
  t[r + "u64." + a] = run1<uint64_t, A, ToInteger<how, uint64_t>>;
  t[r + "s64." + a] = run1<int64_t, A, ToInteger<how, int64_t>>;
  t[r + a + "." + a] = run1<A, A, RoundTo<how>>;
}
template <class A>
void from_float(Table& t, const std::string& a) {
  rounded<Round::nearest, A>(t, "rni", a);
  rounded<Round::zero, A>(t, "rzi", a);
  rounded<Round::down, A>(t, "rmi", a);
  rounded<Round::up, A>(t, "rpi", a);
  t["sat." + a + "." + a] = run1<A, A, Saturate>;
}
Table conversion_table() {
  Table t;
  from_integer<uint8_t>(t, "u8");
  from_integer<int8_t>(t, "s8");
  from_integer<uint16_t>(t, "u16");
  from_integer<int16_t>(t, "s16");
  from_integer<uint32_t>(t, "u32");
  from_integer<int32_t>(t, "s32");
  from_integer<uint64_t>(t, "u64");
  from_integer<int64_t>(t, "s64");
  from_wide<uint8_t>(t, "u8");
  from_wide<int8_t>(t, "s8");
  from_wide<uint16_t>(t, "u16");
  from_wide<int16_t>(t, "s16");
  from_wide<uint32_t>(t, "u32");
  from_wide<int32_t>(t, "s32");
  from_float<float>(t, "f32");
  from_float<double>(t, "f64");
  t["f64.f32"] = run1<double, float, Cast<double>>;
  t["rn.f32.f64"] = run1<float, double, Cast<float>>;
  t["f32.f16"] = run1<float, uint16_t, FromHalf>;
  t["f32.bf16"] = run1<float, uint16_t, FromBfloat>;
  t["rn.f16.f32"] = run1<uint16_t, float, ToHalf>;
  t["rn.bf16.f32"] = run1<uint16_t, float, ToBfloat>;
  t["rn.f16x2.f32"] = run2<uint32_t, float, float, ToHalves>;
  t["rn.bf16x2.f32"] = run2<uint32_t, float, float, ToBfloats>;
  return t;
}

// ---- addresses: of global, local and parameter memory the generic address is the same ----
void shared_to_generic(Warp& w, const Op& op, uint32_t mask) {
  const auto base = reinterpret_cast<uint64_t>(w.block->shared);
  auto *d = w.at<uint64_t>(op.d), *a = w.at<uint64_t>(op.a);
  over_lanes(mask, [&](int i) { d[i] = a[i] + base; });
}
void generic_to_shared(Warp& w, const Op& op, uint32_t mask) {
  const auto base = reinterpret_cast<uint64_t>(w.block->shared);
  auto *d = w.at<uint64_t>(op.d), *a = w.at<uint64_t>(op.a);
  over_lanes(mask, [&](int i) { d[i] = a[i] - base; });
}

bool decode_move(Decoder& decoder, const Statement& s, Op& op) {
  const std::string& type = s.code.back();
  const int bytes = register_bytes(type);
  const Operand &to = s.operands.at(0), &from = s.operands.at(1);
  op.width = uint8_t(bytes);
  if (to.what == Operand::vector || from.what == Operand::vector) {
    const Operand& vector = to.what == Operand::vector ? to : from;
    const auto count = uint32_t(vector.parts.size());
    op.type = uint8_t((type == "b64" ? 64 : 32) / int(count));
    if (type != "b64" && type != "b32") decoder.refuse("a move of this type");
    if (op.type > 32 || op.type < 16) decoder.refuse("parts of this size");
    std::vector<Place> places;
    for (const Operand& part : vector.parts) places.push_back(decoder.place(part, 4));
    op.more = decoder.more(places);
    op.more_count = count;
    if (&vector == &to) {
      op.a = decoder.place(from, bytes);
      op.run = unpack;
    } else {
      op.d = decoder.place(to, bytes);
      op.run = pack;
    }
    return true;
  }
  op.a = decoder.place(from, bytes);
  op.d = decoder.place(to, bytes);
  op.run = type == "pred" ? move_predicate : bytes == 8 ? move64 : move32;
  return true;
}

}  // namespace

bool decode_moves(Decoder& decoder, const Statement& s, Op& op) {
  static const Table comparison = comparison_table(), conversion = conversion_table();
  const std::string& name = s.code[0];
  if (name == "mov") return decode_move(decoder, s, op);
  const std::string& type = s.code.back();
  if (name == "selp") {
    const int bytes = register_bytes(type);
    op.d = decoder.place(s.operands.at(0), bytes);
    op.a = decoder.place(s.operands.at(1), bytes);
    op.b = decoder.place(s.operands.at(2), bytes);
    op.c = decoder.place(s.operands.at(3), 1);
    op.run = bytes == 8 ? select<uint64_t> : select<uint32_t>;
    return true;
  }
  std::string rest;
  for (size_t i = 1; i < s.code.size(); ++i)
    if (s.code[i] != "ftz") rest += (rest.empty() ? "" : ".") + s.code[i];
  if (name == "setp") {
    const auto found = comparison.find(rest);
    if (found == comparison.end() || !s.operands.at(0).parts.empty()) return false;
    op.run = found->second;
    op.d = decoder.place(s.operands[0], 1);
    op.a = decoder.place(s.operands.at(1), register_bytes(type));
    op.b = decoder.place(s.operands.at(2), register_bytes(type));
    return true;
  }
  if (name == "cvt") {
    const int from = register_bytes(type), to = register_bytes(s.code[s.code.size() - 2]);
    const bool wide = decoder.bytes_of(s.operands.at(1), from) > from;
    const auto found = conversion.find((wide ? "wide." : "") + rest);
    if (found == conversion.end()) return false;
    op.run = found->second;
    op.d = decoder.place(s.operands.at(0), to);
    op.a = decoder.place(s.operands.at(1), wide ? 8 : from);
    if (s.operands.size() > 2) op.b = decoder.place(s.operands[2], 4);
    return true;
  }
  if (name == "cvta") {
    if (type != "u64") return false;
    op.d = decoder.place(s.operands.at(0), 8);
    op.a = decoder.place(s.operands.at(1), 8);
    op.run = !s.has("shared") ? move64 : s.has("to") ? generic_to_shared : shared_to_generic;
    return true;
  }
  return false;
}

}  // namespace ptx
