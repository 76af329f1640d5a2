// Products of whole warpgroups. In: wgmma statements, matrices in shared memory and registers. Out: sums in registers; each warp computes
// its 16 rows. A product runs at its issue or, with late copies, at the wait_group that covers it, its sums being NaN until then. PTX
// ISA 9.7.15; the layouts are those of table "Canonical Layouts", CuTe's mma_traits_sm90_gmma.hpp.
#include <algorithm>
#include <bit>

#include "hopper.h"

namespace ptx {

namespace {

enum Flags : uint8_t { bfloat = 1, a_in_registers = 2, a_across = 4, b_across = 8, a_negated = 16, b_negated = 32 };
constexpr uint32_t under_way = 0x7fded5adu;  // in the registers of sums meanwhile: a NaN
constexpr int depth = 16;                    // of a product of 16-bit elements

/// A matrix of rows (of A; columns of B) by 16, as a descriptor tells.
struct Matrix {
  uint32_t start = 0, leading = 0, stride = 0, line = 16;  // line: bytes that a swizzle works in; 16: none
  bool across = false;                                     // rows lie behind each other, not the 16
  /// Of 8 elements: those from k of a row, or those from a row on of a k.
  uint32_t chunk(uint32_t row, uint32_t k) const {
    uint32_t at = start;
    if (line == 16)
      at += across ? row / 8 * stride + k / 8 * leading + k % 8 * 16 : row / 8 * stride + row % 8 * 16 + k / 8 * leading;
    else if (across)
      at += row / (line / 2) * leading + row % (line / 2) * 2 + k / 8 * stride + k % 8 * line;
    else
      at += row / 8 * stride + row % 8 * line + k * 2;
    return at ^ ((at >> 7 & (line / 16 - 1)) << 4);
  }
  template <class F>
  void each_chunk(uint32_t rows, F f) const {
    if (across)
      for (uint32_t k = 0; k < depth; ++k)
        for (uint32_t row = 0; row < rows; row += 8) f(chunk(row, k));
    else
      for (uint32_t row = 0; row < rows; ++row)
        for (uint32_t k = 0; k < depth; k += 8) f(chunk(row, k));
  }
};

/// Sums of a warp that products are adding to.
struct Sums {
  std::vector<Place> places;
  std::vector<float> values;  // [16][columns]
  int products = 0;           // under way
};

struct Product {
  const Op* op;
  uint64_t group;
  Matrix a, b;
  uint32_t fragments[4][32];
  bool add;
  std::shared_ptr<Sums> sums;  // null: it has run
};

struct Products {
  std::deque<Product> pending;
  uint64_t committed = 0;  // groups
  bool uncommitted = false;
  bool fenced = false;
};

Products& products_of(Warp& warp) {
  if (!warp.products) warp.products = std::make_shared<Products>();
  return *static_cast<Products*>(warp.products.get());
}

uint64_t uniform(Warp& warp, Place place, const Op& op) {
  const uint64_t* words = warp.at<uint64_t>(place);
  for (int lane = 1; lane < 32; ++lane)
    if (words[lane] != words[0]) warp.fault(FaultKind::hazard, "a matrix descriptor that differs between lanes", &op, lane);
  return words[0];
}

Matrix matrix_of(Warp& warp, uint64_t descriptor, uint32_t rows, bool across, const Op& op) {
  const auto wrong = [&](const std::string& why) { warp.fault(FaultKind::hazard, "matrix descriptor: " + why, &op); };
  if (descriptor & 0x3ff1c000c000c000ull) wrong("bits are set that mean nothing");
  Matrix m;
  m.start = uint32_t(descriptor & 0x3fff) << 4, m.leading = uint32_t(descriptor >> 16 & 0x3fff) << 4;
  m.stride = uint32_t(descriptor >> 32 & 0x3fff) << 4, m.across = across;
  const auto mode = uint32_t(descriptor >> 62), base = uint32_t(descriptor >> 49 & 7);
  if (mode) {
    m.line = 256u >> mode;
    const uint32_t atom = 8 * m.line;
    if (base) throw Unsupported("a matrix descriptor with a base offset");
    // The repeating pattern starts at a multiple of its size. A matrix along its rows may start at a later column of them.
    if (across ? m.start % atom : m.start % atom + depth * 2 > m.line)
      wrong("the pattern of its " + std::to_string(m.line) + "-byte swizzle does not start where base offset 0 says");
    if (m.stride % atom) wrong("the stride is no multiple of the swizzle's pattern");
    if (across && rows > m.line / 2 && m.leading % atom) wrong("the leading offset is no multiple of the swizzle's pattern");
  }
  m.each_chunk(rows, [&](uint32_t at) {
    if (at < shared_start || at + 16 > warp.block->shared_bytes) wrong("the matrix reaches out of the block's shared memory");
  });
  return m;
}

void note_reads(Warp& warp, const Matrix& m, uint32_t rows, const Op& op) {
  Hazards* hazards = warp.block->hazards.get();
  if (hazards) m.each_chunk(rows, [&](uint32_t at) { hazards->read(warp, at, 16, op, -1, true); });
}

/// The float of a half by exponent arithmetic, which compilers vectorize.
float from_bits(uint16_t bits, bool is_bfloat) {
  if (is_bfloat) return std::bit_cast<float>(uint32_t(bits) << 16);
  uint32_t wide = uint32_t(bits & 0x7fff) << 13;
  const float value = std::bit_cast<float>(wide) * 0x1p112f;
  wide = (bits & 0x7c00) == 0x7c00 ? wide | 0x7f800000u : std::bit_cast<uint32_t>(value);
  return std::bit_cast<float>(wide | uint32_t(bits & 0x8000) << 16);
}

/// to[k * pitch + row]
void read_matrix(const Warp& warp, const Matrix& m, uint32_t first, uint32_t rows, bool is_bfloat, bool negated, float* to,
                 uint32_t pitch) {
  const auto put = [&](uint32_t at, float* first_of, uint32_t step) {
    uint16_t bits[8];
    std::memcpy(bits, warp.block->shared + at, 16);
    for (uint32_t i = 0; i < 8; ++i) first_of[i * step] = from_bits(uint16_t(bits[i] ^ (negated ? 0x8000 : 0)), is_bfloat);
  };
  if (m.across)
    for (uint32_t k = 0; k < depth; ++k)
      for (uint32_t row = 0; row < rows; row += 8) put(m.chunk(first + row, k), to + k * pitch + row, 1);
  else
    for (uint32_t row = 0; row < rows; ++row)
      for (uint32_t k = 0; k < depth; k += 8) put(m.chunk(first + row, k), to + k * pitch + row, pitch);
}

/// Row of a lane's i-th sum among the warp's 16, and column.
uint32_t row_of(uint32_t lane, uint32_t i) { return lane / 4 + 8 * (i >> 1 & 1); }
uint32_t column_of(uint32_t lane, uint32_t i) { return i / 4 * 8 + 2 * (lane % 4) + (i & 1); }

/// At the end of a product: its matrices are as they were, nobody wrote to them meanwhile.
void check_matrices(Warp& warp, const Product& product) {
  const Op& op = *product.op;
  if (op.type & a_in_registers) {
    const Place* places = &warp.block->kernel->places[op.more + op.width * 4u];
    for (uint32_t e = 0; e < 4; ++e)
      if (std::memcmp(warp.at<uint32_t>(places[e]), product.fragments[e], sizeof product.fragments[e]) != 0)
        warp.fault(FaultKind::hazard, "registers of the first matrix changed while a product was reading them", &op);
  } else {
    note_reads(warp, product.a, 64, op);
  }
  note_reads(warp, product.b, op.width * 8u, op);
}

void execute(Warp& warp, Product& product) {
  const Op& op = *product.op;
  const uint32_t columns = op.width * 8u;
  const bool is_bfloat = op.type & bfloat;
  alignas(64) float a[depth][16], b[depth][256];
  if (op.type & a_in_registers) {
    for (uint32_t e = 0; e < 4; ++e) {
      for (uint32_t lane = 0; lane < 32; ++lane)
        for (uint32_t half = 0; half < 2; ++half) {
          const auto bits = uint16_t(product.fragments[e][lane] >> (16 * half));
          a[(e >> 1) * 8 + 2 * (lane % 4) + half][lane / 4 + 8 * (e & 1)] =
              from_bits(uint16_t(bits ^ (op.type & a_negated ? 0x8000 : 0)), is_bfloat);
        }
    }
  } else {
    read_matrix(warp, product.a, uint32_t(warp.index % 4) * 16, 16, is_bfloat, op.type & a_negated, &a[0][0], 16);
  }
  read_matrix(warp, product.b, 0, columns, is_bfloat, op.type & b_negated, &b[0][0], 256);
  for (uint32_t row = 0; row < 16; ++row) {
    float* sums = &product.sums->values[row * columns];
    if (!product.add) std::fill(sums, sums + columns, 0.0f);
    for (int k = 0; k < depth; ++k) {
      const float factor = a[k][row];
      for (uint32_t n = 0; n < columns; ++n) sums[n] += factor * b[k][n];
    }
  }
}

std::shared_ptr<Sums> take_sums(Warp& warp, const Op& op) {
  const Place* places = &warp.block->kernel->places[op.more];
  const uint32_t columns = op.width * 8u, count = columns / 2;
  auto sums = std::make_shared<Sums>();
  sums->places.assign(places, places + count);
  sums->values.resize(16 * columns);
  for (uint32_t i = 0; i < count; ++i)
    for (uint32_t lane = 0; lane < 32; ++lane)
      sums->values[row_of(lane, i) * columns + column_of(lane, i)] = warp.at<float>(places[i])[lane];
  return sums;
}

void give_sums(Warp& warp, const Sums& sums) {
  const auto columns = uint32_t(sums.places.size() * 2);
  for (uint32_t i = 0; i < columns / 2; ++i)
    for (uint32_t lane = 0; lane < 32; ++lane)
      warp.at<float>(sums.places[i])[lane] = sums.values[row_of(lane, i) * columns + column_of(lane, i)];
}

void check_untouched(Warp& warp, const Sums& sums, const Op& op) {
  for (const Place place : sums.places)
    for (int lane = 0; lane < 32; ++lane)
      if (warp.at<uint32_t>(place)[lane] != under_way)
        warp.fault(FaultKind::hazard, "a register of sums was written while products add to it", &op, lane);
}

/// Sums that products under way add to already, if these are the same registers.
std::shared_ptr<Sums> sums_for(Warp& warp, Products& products, const Op& op) {
  const Place* places = &warp.block->kernel->places[op.more];
  const Place* end = places + op.more_count;  // with the first matrix's
  std::shared_ptr<Sums> same;
  for (const Product& other : products.pending) {
    if (other.sums == same) continue;
    const std::vector<Place>& used = other.sums->places;
    const bool equal = used.size() == op.width * 4u && std::equal(used.begin(), used.end(), places);
    const Place* from = equal ? places + used.size() : places;
    if (std::any_of(from, end, [&](Place place) { return std::find(used.begin(), used.end(), place) != used.end(); }))
      warp.fault(FaultKind::hazard, "a product uses registers that another product under way writes", &op);
    if (equal) same = other.sums;
  }
  for (const Product& other : products.pending) {
    if (!(other.op->type & a_in_registers)) continue;
    const Place* used = &warp.block->kernel->places[other.op->more + other.op->width * 4u];
    if (std::any_of(places, places + op.width * 4u, [&](Place place) { return std::find(used, used + 4, place) != used + 4; }))
      warp.fault(FaultKind::hazard, "a product writes registers that another product under way reads", &op);
  }
  if (same) {
    check_untouched(warp, *same, op);
    return same;
  }
  auto sums = take_sums(warp, op);
  for (const Place place : sums->places) std::fill_n(warp.at<uint32_t>(place), 32, under_way);
  return sums;
}

void run_product(Warp& warp, const Op& op, uint32_t mask) {
  if (mask != 0xffffffffu) warp.fault(FaultKind::hazard, "wgmma without all lanes", &op);
  const uint64_t a = op.type & a_in_registers ? 0 : uniform(warp, op.a, op), b = uniform(warp, op.b, op);
  step_warpgroup(warp, op, a, b);
  Products& products = products_of(warp);
  if (!products.fenced) warp.fault(FaultKind::hazard, "a product without wgmma.fence since the start or the last wgmma.wait_group", &op);
  Product product;
  product.op = &op;
  product.group = products.committed;
  const uint32_t add = warp.predicate(op.c);
  if (add != 0 && add != 0xffffffffu) warp.fault(FaultKind::hazard, "scale-d differs between lanes", &op);
  product.add = add != 0;
  if (op.type & a_in_registers) {
    const Place* places = &warp.block->kernel->places[op.more + op.width * 4u];
    for (uint32_t e = 0; e < 4; ++e) std::memcpy(product.fragments[e], warp.at<uint32_t>(places[e]), sizeof product.fragments[e]);
  } else {
    product.a = matrix_of(warp, a, 64, op.type & a_across, op);
    note_reads(warp, product.a, 64, op);
  }
  product.b = matrix_of(warp, b, op.width * 8u, op.type & b_across, op);
  note_reads(warp, product.b, op.width * 8u, op);
  products.uncommitted = true;
  if (!warp.block->schedule.late_copies) {
    product.sums = take_sums(warp, op);
    execute(warp, product);
    give_sums(warp, *product.sums);
    product.sums.reset();
  } else {
    product.sums = sums_for(warp, products, op);
    ++product.sums->products;
  }
  products.pending.push_back(std::move(product));
}

void run_fence(Warp& warp, const Op& op, uint32_t mask) {
  if (mask != 0xffffffffu) warp.fault(FaultKind::hazard, "wgmma.fence without all lanes", &op);
  step_warpgroup(warp, op);
  products_of(warp).fenced = true;
}

void run_commit(Warp& warp, const Op& op, uint32_t mask) {
  if (mask != 0xffffffffu) warp.fault(FaultKind::hazard, "wgmma.commit_group without all lanes", &op);
  step_warpgroup(warp, op);
  Products& products = products_of(warp);
  ++products.committed;
  products.uncommitted = false;
}

void run_wait(Warp& warp, const Op& op, uint32_t mask) {
  if (mask != 0xffffffffu) warp.fault(FaultKind::hazard, "wgmma.wait_group without all lanes", &op);
  step_warpgroup(warp, op);
  Products& products = products_of(warp);
  products.fenced = false;
  while (!products.pending.empty()) {
    Product& product = products.pending.front();
    if (product.group + op.target >= products.committed) break;
    check_matrices(warp, product);
    if (product.sums) execute(warp, product);
    if (product.sums && --product.sums->products == 0) {
      check_untouched(warp, *product.sums, *product.op);
      give_sums(warp, *product.sums);
    }
    products.pending.pop_front();
  }
}

bool is_negative(Decoder& decoder, const Operand& operand) {
  const auto scale = int32_t(operand.bits);
  if (operand.what != Operand::number || (scale != 1 && scale != -1)) decoder.refuse("wgmma: a scale other than 1 or -1");
  return scale < 0;
}
bool flag_of(Decoder& decoder, const Operand& operand) {
  if (operand.what != Operand::number || operand.bits > 1) decoder.refuse("wgmma: a transposition other than 0 or 1");
  return operand.bits;
}

void decode_product(Decoder& decoder, const Statement& statement, Op& op) {
  const auto& code = statement.code;
  const auto& operands = statement.operands;
  if (code.size() != 8 || code[2] != "sync" || code[3] != "aligned" || code[5] != "f32" || code[6] != code[7] ||
      (code[6] != "f16" && code[6] != "bf16"))
    decoder.refuse("a wgmma of this form");
  const std::string& shape = code[4];
  const int columns =
      shape.size() > 7 && shape.substr(0, 4) == "m64n" && shape.substr(shape.size() - 3) == "k16" ? std::atoi(shape.c_str() + 4) : 0;
  if (columns < 8 || columns > 256 || columns % 8) decoder.refuse("a wgmma of this shape");
  op.run = run_product;
  op.width = uint8_t(columns / 8);
  if (code[6] == "bf16") op.type |= bfloat;
  const bool registers = operands.size() > 1 && operands[1].what == Operand::vector;
  if (operands.size() != (registers ? 7u : 8u) || operands[0].parts.size() != size_t(columns) / 2 ||
      (registers && operands[1].parts.size() != 4))
    decoder.refuse("wgmma with another number of operands");
  std::vector<Place> places;
  for (const Operand& part : operands[0].parts) places.push_back(decoder.place(part, 4));
  std::vector<Place> sorted = places;
  std::sort(sorted.begin(), sorted.end());
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) decoder.refuse("wgmma with a register twice among its sums");
  if (registers) {
    op.type |= a_in_registers;
    for (const Operand& part : operands[1].parts) places.push_back(decoder.place(part, 4));
  } else {
    op.a = decoder.place(operands[1], 8);
  }
  op.b = decoder.place(operands[2], 8);
  op.c = decoder.place(operands[3], 1);
  if (is_negative(decoder, operands[4])) op.type |= a_negated;
  if (is_negative(decoder, operands[5])) op.type |= b_negated;
  if (!registers && flag_of(decoder, operands[6])) op.type |= a_across;
  if (flag_of(decoder, operands.back())) op.type |= b_across;
  op.more = decoder.more(places), op.more_count = uint32_t(places.size());
}

}  // namespace

void leave_hopper(Warp& warp) {
  const auto& all = warp.block->mbarriers;
  if (all.empty()) return;
  for (const auto& [group, steps] : hopper_block(*warp.block).groups)
    if (group == uint32_t(warp.index) / 4 && *std::max_element(steps.seen, steps.seen + 4) > steps.seen[warp.index % 4])
      warp.fault(FaultKind::hazard,
                 "a warp ends without what another one of its warpgroup executed: " + warp.block->kernel->text_of(steps.steps.back().line));
  if (!warp.products) return;
  const Products& products = products_of(warp);
  if (!products.pending.empty()) warp.fault(FaultKind::hazard, "a warp ends while products are under way", products.pending.front().op);
  if (products.uncommitted) warp.fault(FaultKind::hazard, "a warp ends with products that were not committed");
}

bool decode_products(Decoder& decoder, const Statement& statement, Op& op) {
  if (statement.code.size() < 2 || statement.code[0] != "wgmma") return false;
  op.kind = Kind::collective, op.aligned = true;
  const std::string code = statement.opcode();
  if (statement.code[1] == "mma_async") {
    decode_product(decoder, statement, op);
  } else if (code == "wgmma.fence.sync.aligned") {
    op.run = run_fence;
  } else if (code == "wgmma.commit_group.sync.aligned") {
    op.run = run_commit;
  } else if (code == "wgmma.wait_group.sync.aligned" && statement.operands.size() == 1 && statement.operands[0].what == Operand::number) {
    op.run = run_wait, op.target = uint32_t(statement.operands[0].bits);
  } else {
    decoder.refuse("a wgmma of this form");
  }
  return true;
}

}  // namespace ptx
