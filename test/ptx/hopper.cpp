// Instructions of sm_90: fences, setmaxnreg, griddepcontrol; the rest is in products, mbarrier and tensor_copy. In: statements. Out:
// operations.
#include "hopper.h"

#include <algorithm>

namespace ptx {

namespace {

constexpr uint32_t own_state = 0xffffffffu;  // no barrier lies there
constexpr uint32_t register_file = 65536;

/// Makes what the warp wrote visible to the asynchronous proxy.
void run_proxy_fence(Warp& warp, const Op&, uint32_t mask) {
  fence_mbarriers(warp, mask);
  if (!warp.block->hazards) return;
  warp.fenced = warp.clock[size_t(warp.index)];
  Hazards::advance(warp);
}

void run_mbarrier_fence(Warp& warp, const Op&, uint32_t mask) { fence_mbarriers(warp, mask); }

/// Registers of a thread at launch: as many as the kernel's launch bound leaves, which is what setmaxnreg is used with.
uint32_t registers_at_launch(const Block& block) {
  const uint32_t threads = std::max(block.kernel->max_threads, block.threads);
  return std::min<uint32_t>(255, register_file / ((threads + 31) / 32 * 32)) & ~7u;
}

void run_registers(Warp& warp, const Op& op, uint32_t mask) {
  if (mask != 0xffffffffu) warp.fault(FaultKind::hazard, "setmaxnreg without all lanes", &op);
  step_warpgroup(warp, op);
  Block& block = *warp.block;
  HopperBlock& state = hopper_block(block);
  const uint32_t launched = registers_at_launch(block);
  state.registers.resize(block.warps.size());
  uint32_t& mine = state.registers[size_t(warp.index)];
  const uint32_t before = mine ? mine : launched, wanted = uint32_t(op.target);
  if (op.type && wanted < before) warp.fault(FaultKind::hazard, "setmaxnreg.inc to fewer than the warp has", &op);
  if (!op.type && wanted > before) warp.fault(FaultKind::hazard, "setmaxnreg.dec to more than the warp has", &op);
  mine = wanted;
  // inc waits until others gave theirs back. Who has not come to a setmaxnreg may still do so.
  uint64_t used = 0;
  bool all = true;
  for (const uint32_t each : state.registers) {
    used += (each ? each : 24u) * 32;
    all = all && each;
  }
  if (used > uint64_t(launched) * 32 * block.warps.size())
    warp.fault(FaultKind::deadlock, "setmaxnreg.inc: the block " + std::string(all ? "has" : "can get") + " no more registers", &op);
}

void run_wait_for_grid(Warp& warp, const Op&, uint32_t) {
  warp.waited = true;
  if (!warp.block->may_pass_wait) warp.waiting = true;
}

/// The next kernel may begin when all blocks have come here, and relies on it that the kernels before this one have ended.
void run_let_start(Warp& warp, const Op& op, uint32_t) {
  if (warp.block->early && !warp.waited)
    warp.fault(FaultKind::hazard, "lets the next kernel begin before this one has waited for the kernel before it", &op);
}

}  // namespace

HopperBlock& hopper_block(Block& block) {
  auto& state = block.mbarriers[own_state];
  if (!state) state = std::make_shared<HopperBlock>();
  return *static_cast<HopperBlock*>(state.get());
}

void step_warpgroup(Warp& warp, const Op& op, uint64_t a, uint64_t b) {
  Block& block = *warp.block;
  const auto group = uint32_t(warp.index) / 4, me = uint32_t(warp.index) % 4;
  if (block.warps.size() < size_t(group) * 4 + 4) warp.fault(FaultKind::hazard, "the block ends within this warpgroup", &op);
  WarpgroupSteps& steps = hopper_block(block).groups[group];
  const uint64_t number = steps.seen[me];
  for (uint32_t i = 0; i < 4; ++i)
    if (i != me && steps.seen[i] <= number && block.warps[group * 4 + i].live != 0xffffffffu)
      warp.fault(FaultKind::hazard, "a warp of this warpgroup has ended and cannot execute this as well", &op);
  if (number == steps.first + steps.steps.size()) {
    steps.steps.push_back({op.line, a, b});
  } else {
    const WarpgroupSteps::Step& step = steps.steps[size_t(number - steps.first)];
    if (step.line != op.line)
      warp.fault(FaultKind::hazard, "another warp of this warpgroup executed: " + block.kernel->text_of(step.line), &op);
    if (step.a != a || step.b != b) warp.fault(FaultKind::hazard, "other operands than in another warp of this warpgroup", &op);
  }
  ++steps.seen[me];
  while (!steps.steps.empty() && *std::min_element(steps.seen, steps.seen + 4) > steps.first) steps.steps.pop_front(), ++steps.first;
}

uint8_t* shared_at(Warp& warp, uint64_t address, uint32_t bytes, uint32_t alignment, const Op& op, int lane, const char* what) {
  const Block& block = *warp.block;
  if (address < shared_start || address + bytes > block.shared_bytes)
    warp.fault(FaultKind::illegal_address, std::string(what) + " outside of the block's shared memory", &op, lane);
  if (address % alignment) warp.fault(FaultKind::misaligned_address, std::string(what) + " at a misaligned address", &op, lane);
  return block.shared + address;
}

bool decode_hopper(Decoder& decoder, const Statement& statement, Op& op) {
  if (decode_products(decoder, statement, op) || decode_mbarrier(decoder, statement, op) || decode_tensor_copy(decoder, statement, op))
    return true;
  const std::string code = statement.opcode();
  if (code == "fence.mbarrier_init.release.cluster") {
    op.run = run_mbarrier_fence;
  } else if (code == "fence.proxy.async" || code == "fence.proxy.async.shared::cta") {
    op.run = run_proxy_fence;
  } else if (code == "setmaxnreg.inc.sync.aligned.u32" || code == "setmaxnreg.dec.sync.aligned.u32") {
    op.run = run_registers, op.kind = Kind::collective, op.aligned = true;
    op.type = statement.has("inc");
    const Operand& count = statement.operands.at(0);
    if (count.what != Operand::number || count.bits < 24 || count.bits > 256 || count.bits % 8)
      decoder.refuse("setmaxnreg needs a multiple of 8 from 24 to 256");
    op.target = uint32_t(count.bits);
  } else if (code == "griddepcontrol.wait") {
    op.run = run_wait_for_grid, op.yields = true;
  } else if (code == "griddepcontrol.launch_dependents") {
    op.run = run_let_start;
  } else {
    return false;
  }
  return true;
}

}  // namespace ptx
