// Barriers in shared memory. In: mbarrier statements. Out: phases, by pending arrivals and bytes; the eight bytes of a barrier hold a
// pattern that nobody may write over, its state lies beside the memory. PTX ISA 9.7.13.15.
#include "hopper.h"

namespace ptx {

namespace {

constexpr uint32_t most_arrivals = (1u << 20) - 1;
constexpr int64_t most_bytes = (1 << 20) - 1;
constexpr uint64_t pattern = 0xb5b5badc0ffee5b5ull;

enum Flags : uint8_t { with_expect = 1, with_arrive = 2, with_parity = 4, relaxed = 8 };

std::string number(int64_t value) { return std::to_string(value); }

void maybe_complete(Mbarrier& b) {
  if (b.pending || b.bytes) return;
  ++b.phase;
  b.pending = b.expected;
  b.observed = false;
  b.closed = std::move(b.open);
  b.open.clear();
}

void join(std::vector<uint32_t>& into, const std::vector<uint32_t>& from) {
  if (into.empty()) into.resize(from.size());
  Hazards::join(into, from);
}

void run_init(Warp& warp, const Op& op, uint32_t mask) {
  each_lane(mask, [&](int lane) {
    const uint64_t at = warp.address(op, lane);
    uint8_t* memory = shared_at(warp, at, 8, 8, op, lane, "mbarrier");
    const uint32_t count = warp.at<uint32_t>(op.b)[lane];
    if (count < 1 || count > most_arrivals) warp.fault(FaultKind::hazard, "mbarrier.init with a count of " + number(count), &op, lane);
    auto& slot = warp.block->mbarriers[uint32_t(at)];
    if (slot) warp.fault(FaultKind::hazard, "mbarrier.init where a barrier is", &op, lane);
    if (warp.block->hazards) warp.block->hazards->write(warp, uint32_t(at), 8, op, -1);
    auto barrier = std::make_shared<Mbarrier>();
    barrier->expected = barrier->pending = count;
    barrier->by_warp = warp.index, barrier->lanes = 1u << lane;
    slot = barrier;
    std::memcpy(memory, &pattern, 8);
  });
}

void run_inval(Warp& warp, const Op& op, uint32_t mask) {
  each_lane(mask, [&](int lane) {
    const uint64_t at = warp.address(op, lane);
    if (!mbarrier_at(warp, at, op, lane).landings.empty())
      warp.fault(FaultKind::hazard, "mbarrier.inval while copies are under way", &op, lane);
    if (warp.block->hazards) warp.block->hazards->write(warp, uint32_t(at), 8, op, -1);
    warp.block->mbarriers.erase(uint32_t(at));
  });
}

/// arrive, expect_tx, both.
void run_arrive(Warp& warp, const Op& op, uint32_t mask) {
  each_lane(mask, [&](int lane) {
    Mbarrier& b = mbarrier_at(warp, warp.address(op, lane), op, lane);
    const uint64_t phase = b.phase;
    if (op.type & with_expect) {
      const uint32_t bytes = warp.at<uint32_t>(op.b)[lane];
      if (bytes > most_bytes || b.bytes + bytes > most_bytes)
        warp.fault(FaultKind::hazard, "mbarrier expects " + number(bytes) + " bytes: out of the tx-count's range", &op, lane);
      b.bytes += bytes;
    }
    if (op.type & with_arrive) {
      const uint32_t count = (op.type & with_expect) || op.b == nowhere ? 1 : warp.at<uint32_t>(op.b)[lane];
      if (count < 1 || count > b.pending)
        warp.fault(FaultKind::hazard, "mbarrier: " + number(count) + " arrivals where " + number(b.pending) + " are missing", &op, lane);
      if (b.phase > 0 && !b.observed)
        warp.fault(FaultKind::hazard, "mbarrier: an arrival, but nobody has waited for the phase before", &op, lane);
      if (warp.block->hazards && !(op.type & relaxed)) join(b.open, warp.clock);
      b.pending -= count;
    }
    if (op.d != nowhere) warp.at<uint64_t>(op.d)[lane] = phase;
    maybe_complete(b);
  });
  // What the warp does from here on is not ordered by its arrival.
  if (warp.block->hazards && (op.type & with_arrive)) Hazards::advance(warp);
}

void run_wait(Warp& warp, const Op& op, uint32_t mask) {
  uint32_t over = 0;
  each_lane(mask, [&](int lane) {
    Mbarrier& b = mbarrier_at(warp, warp.address(op, lane), op, lane);
    const auto complete = [&]() {
      if (op.type & with_parity) return (b.phase & 1) != warp.at<uint32_t>(op.b)[lane];
      return b.phase != warp.at<uint64_t>(op.b)[lane];
    };
    if (op.type & with_parity) {
      if (warp.at<uint32_t>(op.b)[lane] > 1) warp.fault(FaultKind::hazard, "mbarrier: a parity other than 0 or 1", &op, lane);
    } else if (const uint64_t state = warp.at<uint64_t>(op.b)[lane]; state != b.phase && state + 1 != b.phase) {
      warp.fault(FaultKind::hazard, "mbarrier: a wait for neither this phase nor the one before", &op, lane);
    }
    // Copies land as late as they may, one a wait.
    if (!complete() && !b.landings.empty()) {
      size_t which = 0;
      if (warp.block->schedule.seed)
        which = (warp.block->schedule.seed * 2654435761u + b.phase * 40503u + b.landings.size() * 7919u) % b.landings.size();
      const Landing landing = std::move(b.landings[which]);
      b.landings.erase(b.landings.begin() + long(which));
      landing.land();
      complete_bytes(warp, b, landing, op, lane);
    }
    if (!complete()) return;
    over |= 1u << lane;
    if (b.phase == 0) return;
    b.observed = true;
    if (warp.block->hazards && !(op.type & relaxed) && !b.closed.empty()) Hazards::join(warp.clock, b.closed);
    ++warp.lane_clock;
  });
  uint32_t& result = warp.predicate(op.d);
  result = (result & ~mask) | over;
  if (over != mask) warp.paused = true;
}

}  // namespace

Mbarrier& mbarrier_at(Warp& warp, uint64_t address, const Op& op, int lane) {
  const uint8_t* memory = shared_at(warp, address, 8, 8, op, lane, "mbarrier");
  const auto found = warp.block->mbarriers.find(uint32_t(address));
  if (found == warp.block->mbarriers.end()) warp.fault(FaultKind::hazard, "no mbarrier was initialized here", &op, lane);
  if (std::memcmp(memory, &pattern, 8) != 0) warp.fault(FaultKind::hazard, "something wrote over this mbarrier", &op, lane);
  if (warp.block->hazards) warp.block->hazards->read(warp, uint32_t(address), 8, op, -1);
  return *static_cast<Mbarrier*>(found->second.get());
}

void complete_bytes(Warp& warp, Mbarrier& b, const Landing& landing, const Op& op, int lane) {
  if (warp.block->hazards) join(b.open, landing.clock);
  b.bytes -= landing.bytes;
  if (b.bytes < -most_bytes) warp.fault(FaultKind::hazard, "mbarrier: copies bring more bytes than the tx-count holds", &op, lane);
  maybe_complete(b);
}

void fence_mbarriers(Warp& warp, uint32_t mask) {
  for (auto& [at, state] : warp.block->mbarriers) {
    if (at >= warp.block->shared_bytes) continue;
    auto& b = *static_cast<Mbarrier*>(state.get());
    if (b.by_warp == warp.index && (b.lanes & mask)) b.fenced = true;
  }
}

void finish_hopper(Block& block) {
  for (const auto& [at, state] : block.mbarriers)
    if (at < block.shared_bytes && !static_cast<const Mbarrier*>(state.get())->landings.empty())
      throw Fault(FaultKind::hazard, "the block has ended while tensor copies to its shared memory are under way: " + block.kernel->name);
}

bool decode_mbarrier(Decoder& decoder, const Statement& statement, Op& op) {
  if (statement.code.empty() || statement.code[0] != "mbarrier") return false;
  for (const std::string& part : statement.code)
    if (part != "mbarrier" && part != "init" && part != "inval" && part != "arrive" && part != "expect_tx" && part != "try_wait" &&
        part != "test_wait" && part != "parity" && part != "shared" && part != "shared::cta" && part != "b64" && part != "release" &&
        part != "acquire" && part != "relaxed" && part != "cta" && part != "cluster")
      decoder.refuse("mbarrier with ." + part);
  if (!statement.has("shared") && !statement.has("shared::cta")) decoder.refuse("mbarrier with a generic address");
  const auto& operands = statement.operands;
  const std::string& what = statement.code.at(1);
  op.yields = true;
  if (statement.has("relaxed")) op.type |= relaxed;
  if (what == "init" && operands.size() == 2) {
    op.run = run_init;
    decoder.address(op, operands[0]), op.b = decoder.place(operands[1], 4);
  } else if (what == "inval" && operands.size() == 1) {
    op.run = run_inval;
    decoder.address(op, operands[0]);
  } else if (what == "expect_tx" && operands.size() == 2) {
    op.run = run_arrive, op.type |= with_expect;
    decoder.address(op, operands[0]), op.b = decoder.place(operands[1], 4);
  } else if (what == "arrive" && (operands.size() == 3 || (operands.size() == 2 && !statement.has("expect_tx")))) {
    op.run = run_arrive, op.type |= with_arrive;
    if (statement.has("expect_tx")) op.type |= with_expect;
    op.d = operands[0].name == "_" ? nowhere : decoder.place(operands[0], 8);
    decoder.address(op, operands[1]);
    if (operands.size() == 3) op.b = decoder.place(operands[2], 4);
  } else if ((what == "try_wait" || what == "test_wait") && (operands.size() == 3 || operands.size() == 4)) {
    op.run = run_wait;
    if (statement.has("parity")) op.type |= with_parity;
    op.d = decoder.place(operands[0], 1);
    decoder.address(op, operands[1]);
    op.b = decoder.place(operands[2], statement.has("parity") ? 4 : 8);
  } else {
    decoder.refuse("an mbarrier operation that is not emulated");
  }
  return true;
}

}  // namespace ptx
