// Arithmetic and logic of single lanes. In: words of registers. Out: words, as the PTX manual defines them; division by zero gives all
// ones.
#include <algorithm>
#include <cfenv>
#include <unordered_map>

#include "decoder.h"
#include "lanes.h"

namespace ptx {
namespace {

template <class T>
using Unsigned = std::make_unsigned_t<T>;

struct Add {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>)
      return a + b;
    else
      return T(Unsigned<T>(a) + Unsigned<T>(b));
  }
};
struct Subtract {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>)
      return a - b;
    else
      return T(Unsigned<T>(a) - Unsigned<T>(b));
  }
};
struct Multiply {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>)
      return a * b;
    else
      return T(uint64_t(a) * uint64_t(b));
  }
};
struct MultiplyHigh {
  template <class T>
  T operator()(T a, T b) const {
    using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
    return T(Wide(a) * Wide(b) >> (sizeof(T) * 8));
  }
};
template <class D>
struct MultiplyWide {
  template <class T>
  D operator()(T a, T b) const {
    return D(D(a) * D(b));
  }
};
struct MultiplyAdd {
  template <class T>
  T operator()(T a, T b, T c) const {
    return T(uint64_t(a) * uint64_t(b) + uint64_t(c));
  }
};
template <class D>
struct MultiplyAddWide {
  template <class T>
  D operator()(T a, T b, D c) const {
    return D(uint64_t(D(a) * D(b)) + uint64_t(c));
  }
};
struct Fused {
  template <class T>
  T operator()(T a, T b, T c) const {
    return std::fma(a, b, c);
  }
};
struct FusedDown {
  float operator()(float a, float b, float c) const {
    const volatile float x = a, y = b, z = c;
    std::fesetround(FE_DOWNWARD);
    const volatile float result = std::fma(x, y, z);
    std::fesetround(FE_TONEAREST);
    return result;
  }
};
struct Divide {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>) {
      return a / b;
    } else {
      if (b == 0) return T(~T{0});
      if (std::is_signed_v<T> && b == T(-1)) return T(Unsigned<T>(0) - Unsigned<T>(a));
      return T(a / b);
    }
  }
};
struct Remainder {
  template <class T>
  T operator()(T a, T b) const {
    if (b == 0) return T(~T{0});
    if (std::is_signed_v<T> && b == T(-1)) return 0;
    return T(a % b);
  }
};
struct Least {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>)
      return a < b || b != b ? a : b;
    else
      return a < b ? a : b;
  }
};
struct Most {
  template <class T>
  T operator()(T a, T b) const {
    if constexpr (std::is_floating_point_v<T>)
      return a > b || b != b ? a : b;
    else
      return a > b ? a : b;
  }
};
struct Absolute {
  template <class T>
  T operator()(T a) const {
    if constexpr (std::is_floating_point_v<T>)
      return std::fabs(a);
    else
      return a < 0 ? T(Unsigned<T>(0) - Unsigned<T>(a)) : a;
  }
};
struct Negative {
  template <class T>
  T operator()(T a) const {
    if constexpr (std::is_floating_point_v<T>)
      return -a;
    else
      return T(Unsigned<T>(0) - Unsigned<T>(a));
  }
};
struct And {
  template <class T>
  T operator()(T a, T b) const {
    return T(a & b);
  }
};
struct Or {
  template <class T>
  T operator()(T a, T b) const {
    return T(a | b);
  }
};
struct Xor {
  template <class T>
  T operator()(T a, T b) const {
    return T(a ^ b);
  }
};
struct Not {
  template <class T>
  T operator()(T a) const {
    return T(~a);
  }
};
struct ShiftLeft {
  template <class T>
  T operator()(T a, uint32_t b) const {
    return b >= sizeof(T) * 8 ? T{0} : T(Unsigned<T>(a) << b);
  }
};
struct ShiftRight {
  template <class T>
  T operator()(T a, uint32_t b) const {
    if (b >= sizeof(T) * 8) return std::is_signed_v<T> && a < 0 ? T(~T{0}) : T{0};
    return T(a >> b);
  }
};
struct Reciprocal {
  template <class T>
  T operator()(T a) const {
    return T(1) / a;
  }
};
struct SquareRoot {
  template <class T>
  T operator()(T a) const {
    return std::sqrt(a);
  }
};
struct ReciprocalRoot {
  template <class T>
  T operator()(T a) const {
    return T(1) / std::sqrt(a);
  }
};
struct Exp2 {
  float operator()(float a) const { return std::exp2(a); }
};
struct Log2 {
  float operator()(float a) const { return std::log2(a); }
};
struct Sine {
  float operator()(float a) const { return std::sin(a); }
};
struct Cosine {
  float operator()(float a) const { return std::cos(a); }
};
struct Tangent {
  float operator()(float a) const { return std::tanh(a); }
};
struct CopySign {  // PTX: sign of a, magnitude of b
  template <class T>
  T operator()(T a, T b) const {
    return std::copysign(b, a);
  }
};
struct Reverse {
  template <class T>
  T operator()(T a) const {
    T r = 0;
    for (size_t i = 0; i < sizeof(T) * 8; ++i) r = T(r << 1 | (a >> i & 1));
    return r;
  }
};
struct LeadingZeros {
  template <class T>
  uint32_t operator()(T a) const {
    return uint32_t(std::countl_zero(a));
  }
};
struct CountOnes {
  template <class T>
  uint32_t operator()(T a) const {
    return uint32_t(std::popcount(a));
  }
};
template <bool shift_amount>
struct FindHighest {
  template <class T>
  uint32_t operator()(T a) const {
    if (std::is_signed_v<T> && a < 0) a = T(~a);
    if (a == 0) return 0xffffffffu;
    const auto zeros = uint32_t(std::countl_zero(Unsigned<T>(a)));
    return shift_amount ? zeros : uint32_t(sizeof(T) * 8) - 1 - zeros;
  }
};
struct SaturateFused {
  float operator()(float a, float b, float c) const {
    const float r = std::fma(a, b, c);
    return r > 0 ? (r < 1 ? r : 1.0f) : 0.0f;
  }
};

/// bfi: a's low bits into b at position c; length in the fourth operand.
template <class T>
void insert_bits(Warp& w, const Op& op, uint32_t mask) {
  const Place length = w.block->kernel->places[op.more];
  over_lanes(mask, [&](int i) {
    const T a = w.at<T>(op.a)[i], b = w.at<T>(op.b)[i];
    const uint32_t position = w.at<uint32_t>(op.c)[i] & 255, count = w.at<uint32_t>(length)[i] & 255;
    const uint32_t bits = sizeof(T) * 8;
    T field = count >= bits ? T(~T{0}) : T((T{1} << count) - 1);
    field = position >= bits ? T{0} : T(field << position);
    w.at<T>(op.d)[i] = T((b & ~field) | ((position >= bits ? T{0} : T(a << position)) & field));
  });
}
template <class T>
void extract_bits(Warp& w, const Op& op, uint32_t mask) {
  using U = Unsigned<T>;
  over_lanes(mask, [&](int i) {
    const U a = w.at<U>(op.a)[i];
    const uint32_t position = w.at<uint32_t>(op.b)[i] & 255, count = w.at<uint32_t>(op.c)[i] & 255, bits = sizeof(T) * 8;
    U r = position >= bits ? U{0} : U(a >> position);
    if (count < bits) r = U(r & ((U{1} << count) - 1));
    if (std::is_signed_v<T> && count > 0) {
      const uint32_t top = std::min(position + count - 1, bits - 1);
      if (a >> top & 1)
        for (uint32_t bit = std::min(count, top >= position ? top - position + 1 : 0); bit < bits; ++bit) r |= U{1} << bit;
    }
    w.at<U>(op.d)[i] = r;
  });
}
void permute_bytes(Warp& w, const Op& op, uint32_t mask) {
  over_lanes(mask, [&](int i) {
    const uint64_t bytes = w.at<uint32_t>(op.a)[i] | uint64_t(w.at<uint32_t>(op.b)[i]) << 32;
    const uint32_t selector = w.at<uint32_t>(op.c)[i];
    uint32_t r = 0;
    for (int k = 0; k < 4; ++k) {
      const uint32_t s = selector >> (4 * k) & 15;
      auto byte = uint32_t(bytes >> (8 * (s & 7)) & 255);
      if (s & 8) byte = byte & 128 ? 255 : 0;
      r |= byte << (8 * k);
    }
    w.at<uint32_t>(op.d)[i] = r;
  });
}
template <bool left, bool wrap>
void funnel_shift(Warp& w, const Op& op, uint32_t mask) {
  over_lanes(mask, [&](int i) {
    const uint64_t both = w.at<uint32_t>(op.a)[i] | uint64_t(w.at<uint32_t>(op.b)[i]) << 32;
    const uint32_t given = w.at<uint32_t>(op.c)[i], n = wrap ? given & 31 : std::min(given, 32u);
    w.at<uint32_t>(op.d)[i] = left ? uint32_t(both << n >> 32) : uint32_t(both >> n);
  });
}
void logic3(Warp& w, const Op& op, uint32_t mask) {
  over_lanes(mask, [&](int i) {
    const uint32_t a = w.at<uint32_t>(op.a)[i], b = w.at<uint32_t>(op.b)[i], c = w.at<uint32_t>(op.c)[i];
    uint32_t r = 0;
    for (int k = 0; k < 8; ++k)
      if (op.offset >> k & 1) r |= (k & 4 ? a : ~a) & (k & 2 ? b : ~b) & (k & 1 ? c : ~c);
    w.at<uint32_t>(op.d)[i] = r;
  });
}

/// add, sub, mad.lo and mad.hi of 32 or 64 bits with the condition code. type: 1 subtract; width bits: 1 reads it, 2 writes it.
template <class T, int kind>
void with_carry(Warp& w, const Op& op, uint32_t mask) {
  each_lane(mask, [&](int i) {
    using Wide = unsigned __int128;
    const T a = w.at<T>(op.a)[i], b = w.at<T>(op.b)[i];
    const T in = op.width & 1 ? T(w.carry >> i & 1) : T{0};
    Wide r = 0;
    bool out = false;
    constexpr int bits = int(sizeof(T) * 8);
    if constexpr (kind == 0) {  // add
      r = Wide(a) + b + in;
      out = r >> bits & 1;
    } else if constexpr (kind == 1) {  // subtract: the condition code is the borrow
      r = Wide(a) - b - in;
      out = r >> bits & 1;
    } else {
      const Wide product = Wide(a) * b;
      const T part = kind == 2 ? T(product) : T(product >> bits);
      r = Wide(part) + w.at<T>(op.c)[i] + in;
      out = r >> bits & 1;
    }
    w.at<T>(op.d)[i] = T(r);
    if (op.width & 2) w.carry = (w.carry & ~(1u << i)) | uint32_t(out) << i;
  });
}

template <int what>
void predicates(Warp& w, const Op& op, uint32_t mask) {
  const uint32_t a = w.predicate(op.a), b = what == 3 ? 0 : w.predicate(op.b);
  const uint32_t r = what == 0 ? a & b : what == 1 ? a | b : what == 2 ? a ^ b : ~a;
  uint32_t& d = w.predicate(op.d);
  d = (d & ~mask) | (r & mask);
}

using Table = std::unordered_map<std::string, Run>;

template <class T>
void integers(Table& t, const std::string& type) {
  t["add." + type] = run2<T, T, T, Add>;
  t["sub." + type] = run2<T, T, T, Subtract>;
  t["mul.lo." + type] = run2<T, T, T, Multiply>;
  t["mul.hi." + type] = run2<T, T, T, MultiplyHigh>;
  t["mad.lo." + type] = run3<T, T, T, MultiplyAdd>;
  t["div." + type] = run2<T, T, T, Divide>;
  t["rem." + type] = run2<T, T, T, Remainder>;
  t["min." + type] = run2<T, T, T, Least>;
  t["max." + type] = run2<T, T, T, Most>;
  t["shr." + type] = run2<T, T, uint32_t, ShiftRight>;
  if constexpr (std::is_signed_v<T>) {
    t["neg." + type] = run1<T, T, Negative>;
    t["abs." + type] = run1<T, T, Absolute>;
  }
  if constexpr (sizeof(T) >= 4) {
    t["bfe." + type] = extract_bits<T>;
    t["bfind." + type] = run1<uint32_t, T, FindHighest<false>>;
    t["bfind.shiftamt." + type] = run1<uint32_t, T, FindHighest<true>>;
  }
}
template <class T>
void bits(Table& t, const std::string& type) {
  t["and." + type] = run2<T, T, T, And>;
  t["or." + type] = run2<T, T, T, Or>;
  t["xor." + type] = run2<T, T, T, Xor>;
  t["not." + type] = run1<T, T, Not>;
  t["shl." + type] = run2<T, T, uint32_t, ShiftLeft>;
  t["shr." + type] = run2<T, T, uint32_t, ShiftRight>;
  if constexpr (sizeof(T) >= 4) {
    t["brev." + type] = run1<T, T, Reverse>;
    t["clz." + type] = run1<uint32_t, T, LeadingZeros>;
    t["popc." + type] = run1<uint32_t, T, CountOnes>;
    t["bfi." + type] = insert_bits<T>;
  }
}
template <class T>
void floats(Table& t, const std::string& type) {
  for (const std::string rounding : {".", ".rn."}) {
    t["add" + rounding + type] = run2<T, T, T, Add>;
    t["sub" + rounding + type] = run2<T, T, T, Subtract>;
    t["mul" + rounding + type] = run2<T, T, T, Multiply>;
  }
  t["fma.rn." + type] = run3<T, T, T, Fused>;
  t["div.rn." + type] = run2<T, T, T, Divide>;
  t["rcp.rn." + type] = run1<T, T, Reciprocal>;
  t["rcp.approx.ftz." + type] = run1<T, T, Reciprocal>;
  t["sqrt.rn." + type] = run1<T, T, SquareRoot>;
  t["min." + type] = run2<T, T, T, Least>;
  t["max." + type] = run2<T, T, T, Most>;
  t["abs." + type] = run1<T, T, Absolute>;
  t["neg." + type] = run1<T, T, Negative>;
  t["copysign." + type] = run2<T, T, T, CopySign>;
}

Table make_table() {
  Table t;
  integers<int16_t>(t, "s16");
  integers<uint16_t>(t, "u16");
  integers<int32_t>(t, "s32");
  integers<uint32_t>(t, "u32");
  integers<int64_t>(t, "s64");
  integers<uint64_t>(t, "u64");
  bits<uint16_t>(t, "b16");
  bits<uint32_t>(t, "b32");
  bits<uint64_t>(t, "b64");
  floats<float>(t, "f32");
  floats<double>(t, "f64");
  t["mul.wide.s16"] = run2<int32_t, int16_t, int16_t, MultiplyWide<int32_t>>;
  t["mul.wide.u16"] = run2<uint32_t, uint16_t, uint16_t, MultiplyWide<uint32_t>>;
  t["mul.wide.s32"] = run2<int64_t, int32_t, int32_t, MultiplyWide<int64_t>>;
  t["mul.wide.u32"] = run2<uint64_t, uint32_t, uint32_t, MultiplyWide<uint64_t>>;
  t["mad.wide.s32"] = run3<int64_t, int32_t, int64_t, MultiplyAddWide<int64_t>>;
  t["mad.wide.u32"] = run3<uint64_t, uint32_t, uint64_t, MultiplyAddWide<uint64_t>>;
  t["fma.rm.f32"] = run3<float, float, float, FusedDown>;
  t["fma.rn.sat.f32"] = run3<float, float, float, SaturateFused>;
  t["div.approx.f32"] = t["div.full.f32"] = t["div.rn.f32"];
  t["rcp.approx.f32"] = t["rcp.rn.f32"];
  t["sqrt.approx.f32"] = t["sqrt.rn.f32"];
  t["rsqrt.approx.f32"] = run1<float, float, ReciprocalRoot>;
  t["ex2.approx.f32"] = run1<float, float, Exp2>;
  t["lg2.approx.f32"] = run1<float, float, Log2>;
  t["sin.approx.f32"] = run1<float, float, Sine>;
  t["cos.approx.f32"] = run1<float, float, Cosine>;
  t["tanh.approx.f32"] = run1<float, float, Tangent>;
  t["prmt.b32"] = permute_bytes;
  t["shf.l.wrap.b32"] = funnel_shift<true, true>;
  t["shf.l.clamp.b32"] = funnel_shift<true, false>;
  t["shf.r.wrap.b32"] = funnel_shift<false, true>;
  t["shf.r.clamp.b32"] = funnel_shift<false, false>;
  t["lop3.b32"] = logic3;
  t["and.pred"] = predicates<0>;
  t["or.pred"] = predicates<1>;
  t["xor.pred"] = predicates<2>;
  t["not.pred"] = predicates<3>;
  return t;
}

/// add.cc.u32, madc.hi.cc.u32 ...
bool decode_carry(Decoder& decoder, const Statement& s, Op& op, const std::string& type) {
  const std::string& name = s.code[0];
  const bool reads = name == "addc" || name == "subc" || name == "madc";
  if (!reads && !s.has("cc")) return false;
  op.width = uint8_t((reads ? 1 : 0) | (s.has("cc") ? 2 : 0));
  const bool wide = register_bytes(type) == 8;
  if (name == "add" || name == "addc")
    op.run = wide ? with_carry<uint64_t, 0> : with_carry<uint32_t, 0>;
  else if (name == "sub" || name == "subc")
    op.run = wide ? with_carry<uint64_t, 1> : with_carry<uint32_t, 1>;
  else if (s.has("lo"))
    op.run = wide ? with_carry<uint64_t, 2> : with_carry<uint32_t, 2>;
  else if (s.has("hi"))
    op.run = wide ? with_carry<uint64_t, 3> : with_carry<uint32_t, 3>;
  else
    return false;
  const int bytes = wide ? 8 : 4;
  op.d = decoder.place(s.operands.at(0), bytes);
  op.a = decoder.place(s.operands.at(1), bytes);
  op.b = decoder.place(s.operands.at(2), bytes);
  if (s.operands.size() > 3) op.c = decoder.place(s.operands.at(3), bytes);
  return true;
}

}  // namespace

bool decode_arithmetic(Decoder& decoder, const Statement& s, Op& op) {
  static const Table table = make_table();
  const std::string& type = s.code.back();
  if (decode_carry(decoder, s, op, type)) return true;
  Statement plain = s;
  // Flushing of subnormal numbers is left out: it concerns numbers below 1.2e-38 alone.
  if (const auto ftz = std::find(plain.code.begin(), plain.code.end(), "ftz"); ftz != plain.code.end()) plain.code.erase(ftz);
  auto found = table.find(plain.opcode());
  if (found == table.end()) found = table.find(s.opcode());
  if (found == table.end()) return false;
  op.run = found->second;
  const std::string& name = s.code[0];
  const int bytes = register_bytes(type);
  const bool widens = s.has("wide");
  const int result = widens && type.substr(1) == "32" ? 8 : name == "clz" || name == "popc" || name == "bfind" ? 4 : bytes;
  op.d = decoder.place(s.operands.at(0), result);
  op.a = decoder.place(s.operands.at(1), bytes);
  const bool shift = name == "shl" || name == "shr" || name == "bfe";
  if (s.operands.size() > 2) op.b = decoder.place(s.operands[2], shift ? 4 : bytes);
  if (s.operands.size() > 3) op.c = decoder.place(s.operands[3], widens ? result : name == "bfi" || name == "bfe" ? 4 : bytes);
  if (name == "lop3") {
    op.offset = int64_t(s.operands.at(4).bits);
  } else if (s.operands.size() > 4) {
    op.more = decoder.more({decoder.place(s.operands[4], 4)});
  }
  return true;
}

}  // namespace ptx
