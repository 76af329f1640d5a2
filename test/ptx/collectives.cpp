// Operations of several lanes at once: exchanges, votes, barriers, matrix fragments. In: registers of a whole warp. Out: the same.
#include <bit>

#include "counters.h"
#include "decoder.h"
#include "halves.h"
#include "lanes.h"

namespace ptx {
namespace {

enum Shuffle : uint8_t { up, down, butterfly, index };

/// d|p, a, b, c, members. places: the predicate or nowhere.
void shuffle(Warp& w, const Op& op, uint32_t mask) {
  const Place predicate = w.block->kernel->places[op.more];
  uint32_t values[32], ok = 0;
  std::memcpy(values, w.at<uint32_t>(op.a), sizeof values);
  each_lane(mask, [&](int lane) {
    const int b = int(w.at<uint32_t>(op.b)[lane] & 31), c = int(w.at<uint32_t>(op.c)[lane]);
    const int segment = c >> 8 & 31, most = (lane & segment) | (c & 31 & ~segment), least = lane & segment;
    int from = lane;
    bool inside = false;
    switch (op.type) {
      case up: from = lane - b, inside = from >= most; break;
      case down: from = lane + b, inside = from <= most; break;
      case butterfly: from = lane ^ b, inside = from <= most; break;
      default: from = least | (b & ~segment), inside = from <= most;
    }
    if (!inside) from = lane;
    ok |= uint32_t(inside) << lane;
    // A lane that takes no part gives nothing that may be relied on.
    w.at<uint32_t>(op.d)[lane] = mask >> from & 1 ? values[from] : 0xffbadbadu;
  });
  if (predicate != nowhere) {
    uint32_t& p = w.predicate(predicate);
    p = (p & ~mask) | ok;
  }
}

enum Vote : uint8_t { all, any, uniform, ballot };
void vote(Warp& w, const Op& op, uint32_t mask) {
  uint32_t votes = w.predicate(op.a);
  if (op.width) votes = ~votes;
  votes &= mask;
  if (op.type == ballot) {
    each_lane(mask, [&](int lane) { w.at<uint32_t>(op.d)[lane] = votes; });
    return;
  }
  const bool yes = op.type == all ? votes == mask : op.type == any ? votes != 0 : votes == 0 || votes == mask;
  uint32_t& d = w.predicate(op.d);
  d = yes ? d | mask : d & ~mask;
}

/// Orders what the lanes did; of part of the warp, it orders more than it should in the check of hazards.
void sync_warp(Warp& w, const Op&, uint32_t) { ++w.lane_clock; }

void barrier(Warp& w, const Op& op, uint32_t mask) {
  const int lane = __builtin_ctz(mask);
  arrive_at_barrier(w, w.at<uint32_t>(op.a)[lane], op.b == nowhere ? 0 : w.at<uint32_t>(op.b)[lane], op);
}

void whole_warp(Warp& w, const Op& op, uint32_t mask) {
  if (mask != 0xffffffffu) w.fault(FaultKind::illegal_instruction, "a product of matrices by part of a warp", &op, __builtin_ctz(mask));
}

/// 1, 2 or 4 matrices of 8 rows of 16 bytes; lane 8 m + r has the address of row r of matrix m. Lane l gets row l / 4, elements 2 (l % 4)
/// and the next.
void load_matrices(Warp& w, const Op& op, uint32_t mask) {
  whole_warp(w, op, mask);
  const Place* places = &w.block->kernel->places[op.more];
  if (w.block->counts) w.block->counts->matrices(w, op);
  uint16_t rows[32][8];
  for (int lane = 0; lane < 8 * int(op.more_count); ++lane)
    std::memcpy(rows[lane], w.access(Space::shared, w.address(op, lane), 16, lane, false, op), 16);
  for (uint32_t m = 0; m < op.more_count; ++m)
    for (int lane = 0; lane < 32; ++lane) {
      const int row = lane / 4, column = lane % 4 * 2;
      const uint16_t low = op.type ? rows[8 * m + uint32_t(column)][row] : rows[8 * m + uint32_t(row)][column];
      const uint16_t high = op.type ? rows[8 * m + uint32_t(column) + 1][row] : rows[8 * m + uint32_t(row)][column + 1];
      w.at<uint32_t>(places[m])[lane] = uint32_t(high) << 16 | low;
    }
}

float element(uint32_t word, int half, bool bfloat) {
  const auto bits = uint16_t(word >> (16 * half));
  return bfloat ? from_bfloat(bits) : from_half(bits);
}

/// m16n8k16: d[16 x 8] = a[16 x 16] b[16 x 8] + c. places: d 4, a 4, b 2, c 4. With g = lane / 4, t = lane % 4: of a, registers 0 and 1
/// hold rows g and g + 8 of columns 2t, 2t + 1, registers 2 and 3 the same of columns 2t + 8, 2t + 9; of b, register 0 rows 2t, 2t + 1 of
/// column g, register 1 rows 2t + 8, 2t + 9; of c and d, registers 0, 1 row g of columns 2t, 2t + 1, registers 2, 3 row g + 8 (PTX manual,
/// mma.m16n8k16).
void multiply16816(Warp& w, const Op& op, uint32_t mask) {
  whole_warp(w, op, mask);
  const Place* p = &w.block->kernel->places[op.more];
  const bool bfloat = op.type;
  float a[16][16], b[16][8], c[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; ++r) {
      const uint32_t word = w.at<uint32_t>(p[4 + r])[lane];
      for (int half = 0; half < 2; ++half) a[g + (r & 1) * 8][2 * t + half + (r >> 1) * 8] = element(word, half, bfloat);
    }
    for (int r = 0; r < 2; ++r) {
      const uint32_t word = w.at<uint32_t>(p[8 + r])[lane];
      for (int half = 0; half < 2; ++half) b[2 * t + half + r * 8][g] = element(word, half, bfloat);
    }
    for (int r = 0; r < 4; ++r) c[g + (r >> 1) * 8][2 * t + (r & 1)] = w.at<float>(p[10 + r])[lane];
  }
  for (int i = 0; i < 16; ++i) {
    float sum[8];
    std::memcpy(sum, c[i], sizeof sum);
    for (int k = 0; k < 16; ++k)
      for (int j = 0; j < 8; ++j) sum[j] += a[i][k] * b[k][j];
    std::memcpy(c[i], sum, sizeof sum);
  }
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int r = 0; r < 4; ++r) w.at<float>(p[r])[lane] = c[g + (r >> 1) * 8][2 * t + (r & 1)];
  }
}

std::vector<Place> places_of(Decoder& decoder, const Operand& vector) {
  std::vector<Place> places;
  for (const Operand& part : vector.parts) places.push_back(decoder.place(part, 4));
  return places;
}

}  // namespace

bool decode_collectives(Decoder& decoder, const Statement& s, Op& op) {
  const std::string& name = s.code[0];
  if (name == "shfl") {
    if (s.has("up"))
      op.type = up;
    else if (s.has("down"))
      op.type = down;
    else
      op.type = s.has("bfly") ? butterfly : index;
    const Operand& to = s.operands.at(0);
    op.kind = Kind::collective;
    op.run = shuffle;
    op.d = decoder.place(to, 4);
    op.more = decoder.more({to.parts.empty() ? nowhere : decoder.place(to.parts[0], 1)});
    op.a = decoder.place(s.operands.at(1), 4);
    op.b = decoder.place(s.operands.at(2), 4);
    op.c = decoder.place(s.operands.at(3), 4);
    op.target = decoder.place(s.operands.at(4), 4);
    return true;
  }
  if (name == "vote") {
    op.type = s.has("ballot") ? ballot : s.has("all") ? all : s.has("any") ? any : uniform;
    op.kind = Kind::collective;
    op.run = vote;
    Operand from = s.operands.at(1);
    op.width = from.negated;
    from.negated = false;
    op.d = decoder.place(s.operands[0], op.type == ballot ? 4 : 1);
    op.a = decoder.place(from, 1);
    op.target = decoder.place(s.operands.at(2), 4);
    return true;
  }
  if ((name == "bar" || name == "barrier") && s.has("warp")) {
    op.kind = Kind::collective;
    op.run = sync_warp;
    op.target = decoder.place(s.operands.at(0), 4);
    return true;
  }
  if ((name == "bar" || name == "barrier") && s.has("sync")) {
    op.kind = Kind::collective;
    op.aligned = true;
    op.yields = true;
    op.run = barrier;
    op.a = decoder.place(s.operands.at(0), 4);
    if (s.operands.size() > 1) op.b = decoder.place(s.operands[1], 4);
    return true;
  }
  if (name == "ldmatrix") {
    if (!s.has("m8n8") || !s.has("b16")) return false;
    op.kind = Kind::collective;
    op.aligned = true;
    op.run = load_matrices;
    op.type = s.has("trans");
    op.more = decoder.more(places_of(decoder, s.operands.at(0)));
    op.more_count = uint32_t(s.operands[0].parts.size());
    decoder.address(op, s.operands.at(1));
    return true;
  }
  if (name == "mma") {
    if (!s.has("m16n8k16") || !s.has("row") || !s.has("col") || s.code.back() != "f32") return false;
    op.type = s.has("bf16");
    if (!op.type && !s.has("f16")) return false;
    std::vector<Place> places;
    const size_t sizes[4] = {4, 4, 2, 4};
    for (size_t i = 0; i < 4; ++i) {
      const auto part = places_of(decoder, s.operands.at(i));
      if (part.size() != sizes[i]) decoder.refuse("fragments of other sizes");
      places.insert(places.end(), part.begin(), part.end());
    }
    op.kind = Kind::collective;
    op.aligned = true;
    op.run = multiply16816;
    op.more = decoder.more(places);
    return true;
  }
  return false;
}

}  // namespace ptx
