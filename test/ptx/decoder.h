// Between text and operations. In: one statement, split. Out: places for its operands. Each group of instructions has a decode_ function,
// which gives false for what is not its own.
#pragma once
#include "program.h"
#include "warp.h"

namespace ptx {

struct Operand {
  enum What : uint8_t { reg, number, symbol, address, vector, none } what = none;
  std::string name;       // register, symbol; of an address: its base, empty for a bare number
  uint64_t bits = 0;      // number
  bool is_float = false;  // number written as 0f or 0d: bits are the float's or the double's
  bool base_is_symbol = false;
  int64_t offset = 0;
  bool negated = false;        // !%p
  std::vector<Operand> parts;  // of a vector; of `%r1|%p1` the second; of [%rd1, {%r1, %r2, %r3}] the coordinates
};

struct Statement {
  std::vector<std::string> code;  // opcode split at its dots: "ld", "shared", "v4", "u32"
  std::vector<Operand> operands;
  std::string guard;
  bool guard_negated = false;
  uint32_t line = 0;
  bool has(std::string_view part) const {
    for (const auto& p : code)
      if (p == part) return true;
    return false;
  }
  std::string opcode() const {
    std::string all;
    for (const auto& p : code) all += (all.empty() ? "" : ".") + p;
    return all;
  }
};

class Decoder {
 public:
  virtual ~Decoder() = default;
  /// Place of a register or constant; `bytes` 4 or 8: how wide a constant is spread; 1: a predicate.
  virtual Place place(const Operand& operand, int bytes) = 0;
  /// Bytes of a register operand: 8, 4, or 1 for a predicate; of others `otherwise`.
  virtual int bytes_of(const Operand& operand, int otherwise) = 0;
  /// Sets op.a, op.offset and op.wide_address from an address operand.
  virtual void address(Op& op, const Operand& operand) = 0;
  /// Further operands of an operation: returns the first one's index for Op::more.
  virtual uint32_t more(const std::vector<Place>& places) = 0;
  [[noreturn]] virtual void refuse(const std::string& why) = 0;
};

/// Bytes of a type's register: "u64" 8, "pred" 1, others 4.
int register_bytes(const std::string& type);

bool decode_arithmetic(Decoder& decoder, const Statement& statement, Op& op);
bool decode_moves(Decoder& decoder, const Statement& statement, Op& op);        // mov, selp, setp, cvt, cvta
bool decode_memory(Decoder& decoder, const Statement& statement, Op& op);       // ld, st, atom, cp.async, fences, prefetch
bool decode_collectives(Decoder& decoder, const Statement& statement, Op& op);  // shfl, vote, bar, ldmatrix, mma
bool decode_hopper(Decoder& decoder, const Statement& statement, Op& op);  // wgmma, mbarrier, cp.async.bulk, setmaxnreg, griddepcontrol

}  // namespace ptx
