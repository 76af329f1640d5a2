// Running blocks. In: a kernel, a launch. Out: its effects on memory, or a Fault. Lanes of a warp that part go on one group at a time, the
// one with the lowest operation first, so that they meet again; what names other lanes waits for them. Warps take turns.
#include <algorithm>
#include <numeric>
#include <random>

#include "counters.h"
#include "hopper.h"
#include "lanes.h"

namespace ptx {
namespace {

constexpr uint32_t never = 0xffffffffu;

/// Lanes that are at the lowest operation of those that can go on become the active ones. Gives the lowest operation of the others, or
/// `never`.
uint32_t choose_lanes(Warp& w) {
  const uint32_t ready = w.live & ~w.parked;
  uint32_t lowest = never, next = never;
  uint32_t group = 0;
  for (uint32_t rest = ready; rest; rest &= rest - 1) {
    const int lane = __builtin_ctz(rest);
    const uint32_t pc = w.lane_pc[lane];
    if (pc < lowest) {
      next = lowest;
      lowest = pc;
      group = 1u << lane;
    } else if (pc == lowest) {
      group |= 1u << lane;
    } else {
      next = std::min(next, pc);
    }
  }
  w.active = group;
  w.pc = lowest;
  return next;
}

void keep_places(Warp& w) {
  each_lane(w.active, [&](int lane) { w.lane_pc[lane] = w.pc; });
}

/// The lanes that execute the collective at `pc` now, of those that have come there; 0: some are missing.
uint32_t complete(Warp& w, const Op& op, uint32_t come) {
  if (op.aligned) return (w.live & ~come) == 0 ? come : 0;
  for (uint32_t rest = come; rest;) {
    const uint32_t members = w.at<uint32_t>(op.target)[__builtin_ctz(rest)];
    uint32_t same = 0;
    for (uint32_t r = rest; r; r &= r - 1)
      if (w.at<uint32_t>(op.target)[__builtin_ctz(r)] == members) same |= r & -r;
    if (same & ~members)
      w.fault(FaultKind::illegal_instruction, "a lane calls a collective that does not name it", &op, __builtin_ctz(same & ~members));
    if ((members & w.live & ~same) == 0) return same;
    rest &= ~same;
  }
  return 0;
}

uint32_t lanes_at(const Warp& w, uint32_t lanes, uint32_t pc) {
  uint32_t found = 0;
  for (; lanes; lanes &= lanes - 1)
    if (w.lane_pc[__builtin_ctz(lanes)] == pc) found |= lanes & -lanes;
  return found;
}

void leave(Warp& w, uint32_t lanes, const Op& op) {
  land_copies(w, lanes, 0, true, op);
  w.live &= ~lanes;
  w.active &= ~lanes;
  if (w.live == 0) leave_hopper(w);
}

/// A warp that ended may have been the last that a barrier of the whole block waited for.
void release_if_complete(Block& block, Barrier& barrier) {
  if (barrier.warps.empty()) return;
  uint32_t expected = barrier.expected;
  if (expected == 0)
    for (const Warp& w : block.warps) expected += w.live ? 32 : 0;
  if (barrier.arrived < expected) return;
  if (block.hazards) {
    std::vector<uint32_t> all(block.warps.size(), 0);
    for (const int i : barrier.warps) Hazards::join(all, block.warps[size_t(i)].clock);
    for (const int i : barrier.warps) {
      Hazards::join(block.warps[size_t(i)].clock, all);
      Hazards::advance(block.warps[size_t(i)]);
      ++block.warps[size_t(i)].lane_clock;
    }
    GridOrder order;
    for (const int i : barrier.warps) order.join(block.warps[size_t(i)].order);
    if (!order.empty())
      for (const int i : barrier.warps) block.warps[size_t(i)].order = order;
  }
  for (const int i : barrier.warps) block.warps[size_t(i)].waiting = false;
  barrier = Barrier{};
}

/// Lanes that wait at collectives with nobody left to come: one of the groups may be complete now that others have left. False: none is.
bool resume_parked(Warp& w, const Op* ops, uint32_t& runs) {
  for (uint32_t rest = w.parked & w.live; rest;) {
    const uint32_t pc = w.lane_pc[__builtin_ctz(rest)], group = lanes_at(w, rest, pc);
    const uint32_t now = complete(w, ops[pc], group);
    if (now) {
      w.parked &= ~now;
      w.active = now;
      w.pc = pc;
      runs = now;
      return true;
    }
    rest &= ~group;
  }
  return false;
}

template <bool counted>
void run_warp(Warp& w, uint32_t quantum) {
  const Op* ops = w.block->kernel->ops.data();
  uint32_t stop = choose_lanes(w);
  w.paused = false;
  for (uint32_t n = 0;; ++n) {
    if (w.active == 0) {  // all parked, or none left
      if (w.live == 0) return;
      uint32_t runs = 0;
      if (!resume_parked(w, ops, runs)) {
        const int lane = __builtin_ctz(w.live);
        w.fault(FaultKind::deadlock, "lanes of a warp wait for each other at different places", &ops[w.lane_pc[lane]], lane);
      }
      const Op& op = ops[w.pc];
      op.run(w, op, runs);
      ++w.pc;
      keep_places(w);
      if (w.waiting || w.paused) return;
      stop = choose_lanes(w);
      continue;
    }
    if (n >= quantum) {
      keep_places(w);
      return;
    }
    const Op& op = ops[w.pc];
    if constexpr (counted) ++w.block->counts->executed[w.pc];
    uint32_t mask = w.active;
    if (op.guard != nowhere) {
      const uint32_t p = w.predicate(op.guard);
      mask &= op.guard_negated ? ~p : p;
    }
    switch (op.kind) {
      case Kind::plain:
        if (mask) op.run(w, op, mask);
        ++w.pc;
        if (op.yields && (w.waiting || w.paused)) {
          keep_places(w);
          return;
        }
        break;
      case Kind::branch:
        if (mask == w.active) {
          w.pc = op.target;
        } else if (mask == 0) {
          ++w.pc;
        } else {
          ++w.pc;
          keep_places(w);
          each_lane(mask, [&](int lane) { w.lane_pc[lane] = op.target; });
          stop = choose_lanes(w);
        }
        break;
      case Kind::exit:
        ++w.pc;
        keep_places(w);
        if (mask) leave(w, mask, op);
        stop = choose_lanes(w);
        continue;
      case Kind::collective: {
        if (mask != w.active) {
          if (mask == 0) {
            ++w.pc;
            break;
          }
          ++w.pc;  // those whose guard says no go past it
          keep_places(w);
          --w.pc;
          each_lane(mask, [&](int lane) { w.lane_pc[lane] = w.pc; });
          w.active = mask;
          stop = std::min(stop, w.pc + 1);
        }
        const uint32_t come = w.active | (w.parked ? lanes_at(w, w.parked & w.live, w.pc) : 0);
        const uint32_t now = complete(w, op, come);
        if (now == w.active && now) {
          op.run(w, op, now);
          ++w.pc;
        } else {
          keep_places(w);
          w.parked |= w.active;
          if (now) {
            op.run(w, op, now);
            w.parked &= ~now;
            each_lane(now, [&](int lane) { ++w.lane_pc[lane]; });
            if (op.yields && (w.waiting || w.paused)) return;
          }
          stop = choose_lanes(w);
          continue;
        }
        if (op.yields && (w.waiting || w.paused)) {
          keep_places(w);
          return;
        }
        break;
      }
    }
    if (w.pc >= stop) {
      keep_places(w);
      stop = choose_lanes(w);
    }
  }
}

std::string lane_name(const Warp& w, int lane) {
  const Block& b = *w.block;
  return "block (" + std::to_string(b.id[0]) + ", " + std::to_string(b.id[1]) + ", " + std::to_string(b.id[2]) + "), thread " +
         std::to_string(w.index * 32 + lane);
}

}  // namespace

void Warp::fault(FaultKind kind, const std::string& what, const Op* op, int lane) {
  std::string words = what + "; kernel " + block->kernel->name + ", " + lane_name(*this, lane < 0 ? 0 : lane);
  if (op) words += ", at PTX line " + std::to_string(op->line) + ": " + block->kernel->text_of(op->line);
  throw Fault(kind, words);
}

uint8_t* Warp::access(Space space, uint64_t address, uint32_t bytes, int lane, bool write, const Op& op) {
  const auto wrong = [&](FaultKind kind, const char* where) {
    char number[32];
    std::snprintf(number, sizeof number, "0x%llx", static_cast<unsigned long long>(address));
    fault(kind,
          std::string(write ? "write" : "read") + " of " + std::to_string(bytes) + " bytes at " + number + " of " + where + " memory" +
              (kind == FaultKind::misaligned_address ? ", not aligned" : ", which is not allocated"),
          &op, lane);
  };
  if (space == Space::generic) {
    const auto window = reinterpret_cast<uint64_t>(block->shared), own = reinterpret_cast<uint64_t>(local.data());
    const auto parameters = reinterpret_cast<uint64_t>(block->parameters);
    if (address - window < block->shared_bytes) {
      address -= window;
      space = Space::shared;
    } else if (address - own < local.size()) {
      space = Space::local;
    } else if (address - parameters < block->kernel->parameter_bytes) {
      if (write || address - parameters + bytes > block->kernel->parameter_bytes) wrong(FaultKind::illegal_address, "parameter");
      space = Space::parameter;
    } else {
      space = Space::global;
    }
  }
  if (address & (bytes - 1))
    wrong(FaultKind::misaligned_address, space == Space::shared ? "shared" : space == Space::local ? "local" : "global");
  switch (space) {
    case Space::shared:
      if (address < shared_start || address + bytes > block->shared_bytes) wrong(FaultKind::illegal_address, "shared");
      if (block->hazards && op.atomic) block->hazards->write(*this, uint32_t(address), bytes, op, lane, Hazards::atomic);
      if (block->hazards && !write) block->hazards->read(*this, uint32_t(address), bytes, op, lane);
      return block->shared + address;
    case Space::local: {
      const uint64_t own = address - reinterpret_cast<uint64_t>(local.data()), stride = local.size() / 32;
      if (own >= local.size() || own / stride != uint64_t(lane)) wrong(FaultKind::illegal_address, "local");
      break;
    }
    case Space::parameter: break;
    default:
      if (!DeviceMemory::instance().valid(address, bytes)) wrong(FaultKind::illegal_address, "global");
      if (!block->grid) break;
      if (op.atomic) {
        block->grid->write(*this, address, bytes, op, lane, GridHazards::atomic);
        block->grid->meet(*this, address);
      } else if (write) {
        block->grid->write(*this, address, bytes, op, lane);
      } else {
        block->grid->read(*this, address, bytes, op, lane, op.constant ? GridHazards::constant : GridHazards::plain);
      }
  }
  return reinterpret_cast<uint8_t*>(address);
}

void arrive_at_barrier(Warp& w, uint32_t id, uint32_t threads, const Op& op) {
  Block& block = *w.block;
  if (id > 15) w.fault(FaultKind::illegal_instruction, "barrier " + std::to_string(id), &op);
  if (threads % 32) w.fault(FaultKind::illegal_instruction, "a barrier of part of a warp", &op);
  Barrier& barrier = block.barriers[id];
  if (!barrier.warps.empty() && barrier.expected != threads)
    w.fault(FaultKind::deadlock, "warps disagree how many threads a barrier has", &op);
  barrier.expected = threads;
  barrier.arrived += 32;
  barrier.warps.push_back(w.index);
  w.waiting = true;
  release_if_complete(block, barrier);
}

bool Block::done() const {
  return std::all_of(warps.begin(), warps.end(), [](const Warp& w) { return w.live == 0; });
}

void run_block(Block& block) {
  std::vector<size_t> order(block.warps.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::mt19937 draw(block.schedule.seed * 7919u + block.id[0] * 31u + block.id[1] * 17u + block.id[2]);
  uint32_t fruitless = 0;
  for (;;) {
    if (block.schedule.seed) std::shuffle(order.begin(), order.end(), draw);
    bool ran = false, progress = false;
    for (const size_t i : order) {
      Warp& w = block.warps[i];
      if (w.live == 0 || w.waiting) continue;
      ran = true;
      const uint32_t quantum = block.schedule.seed ? 1 + uint32_t(draw() % (block.schedule.seed % 2 ? 64 : 4096)) : 1u << 16;
      block.counts ? run_warp<true>(w, quantum) : run_warp<false>(w, quantum);
      progress |= !w.paused;
      if (w.live == 0)
        for (Barrier& barrier : block.barriers)
          if (barrier.expected == 0) release_if_complete(block, barrier);
    }
    if (!ran) {
      if (block.done()) {
        finish_hopper(block);
        if (block.early && std::none_of(block.warps.begin(), block.warps.end(), [](const Warp& w) { return w.waited; }))
          throw Fault(FaultKind::hazard, "a block ends without a wait for the kernel before it: " + block.kernel->name);
        return;
      }
      if (!block.may_pass_wait) return;
      for (Warp& w : block.warps)
        if (w.live) {
          const int lane = __builtin_ctz(w.live);
          const uint32_t pc = w.lane_pc[lane];
          w.fault(FaultKind::deadlock, "no warp of the block can go on", &block.kernel->ops[pc ? pc - 1 : 0], lane);
        }
    }
    fruitless = progress ? 0 : fruitless + 1;
    if (fruitless > 100000) {
      Warp& w = *std::find_if(block.warps.begin(), block.warps.end(), [](const Warp& warp) { return warp.live && !warp.waiting; });
      w.fault(FaultKind::deadlock, "all warps of the block wait in loops", &block.kernel->ops[w.lane_pc[__builtin_ctz(w.live)]],
              __builtin_ctz(w.live));
    }
  }
}

// ---- launches ----

Execution::Execution(const Kernel& kernel, Launch launch) : kernel_(kernel), launch_(std::move(launch)), counts_(counts_of_launch(kernel)) {
  const uint32_t threads = launch_.block[0] * launch_.block[1] * launch_.block[2];
  if (launch_.schedule.check_hazards) grid_ = std::make_unique<GridHazards>(kernel_, (threads + 31) / 32);
}
Execution::~Execution() = default;

std::unique_ptr<Block> Execution::make_block(uint32_t x, uint32_t y, uint32_t z) {
  auto block = std::make_unique<Block>();
  prepare(*block, x, y, z);
  return block;
}

void Execution::prepare(Block& b, uint32_t x, uint32_t y, uint32_t z) {
  std::vector<Warp> used = std::move(b.warps);  // their memory serves again
  std::vector<uint8_t> shared_memory = std::move(b.shared_memory);
  b = Block{};
  b.warps = std::move(used);
  b.shared_memory = std::move(shared_memory);
  b.kernel = &kernel_;
  b.schedule = launch_.schedule;
  b.counts = counts_.get();
  if (b.counts) ++b.counts->blocks;
  b.id[0] = x, b.id[1] = y, b.id[2] = z;
  b.number = (z * launch_.grid[1] + y) * launch_.grid[0] + x;
  b.early = launch_.early;
  std::copy_n(launch_.block, 3, b.dims);
  b.threads = b.dims[0] * b.dims[1] * b.dims[2];
  b.parameters = launch_.parameters.data();
  const uint32_t alignment = std::max(kernel_.dynamic_alignment, 16u);
  b.shared_bytes = shared_start + (kernel_.static_shared + alignment - 1) / alignment * alignment + launch_.shared_bytes;
  b.shared_memory.assign(b.shared_bytes + 1024, 0xcb);
  b.shared = reinterpret_cast<uint8_t*>((reinterpret_cast<uint64_t>(b.shared_memory.data()) + 1023) / 1024 * 1024);
  b.warps.resize((b.threads + 31) / 32);
  const auto fill = [&](Warp& w, Place place, auto value_of) {
    if (place != nowhere)
      for (int lane = 0; lane < 32; ++lane) w.at<uint32_t>(place)[lane] = value_of(lane);
  };
  for (size_t i = 0; i < b.warps.size(); ++i) {
    Warp& w = b.warps[i];
    std::vector<uint8_t> register_file = std::move(w.register_file), local_memory = std::move(w.local);
    w = Warp{};
    w.register_file = std::move(register_file);
    w.local = std::move(local_memory);
    w.block = &b;
    w.index = int(i);
    w.register_file.resize(kernel_.register_bytes + 64);
    w.registers = reinterpret_cast<uint8_t*>((reinterpret_cast<uint64_t>(w.register_file.data()) + 63) / 64 * 64);
    std::memcpy(w.registers, kernel_.initial.data(), kernel_.initial.size());
    const uint32_t local = (kernel_.local_bytes + 15) / 16 * 16;
    w.local.assign(size_t(local) * 32, 0xcb);
    const uint32_t first = uint32_t(i) * 32, count = std::min(32u, b.threads - first);
    w.live = count == 32 ? 0xffffffffu : (1u << count) - 1;
    for (int axis = 0; axis < 3; ++axis) {
      fill(w, kernel_.ntid[axis], [&](int) { return b.dims[axis]; });
      fill(w, kernel_.nctaid[axis], [&](int) { return launch_.grid[axis]; });
      fill(w, kernel_.ctaid[axis], [&](int) { return b.id[axis]; });
    }
    fill(w, kernel_.laneid, [](int lane) { return uint32_t(lane); });
    fill(w, kernel_.tid[0], [&](int lane) { return (first + uint32_t(lane)) % b.dims[0]; });
    fill(w, kernel_.tid[1], [&](int lane) { return (first + uint32_t(lane)) / b.dims[0] % b.dims[1]; });
    fill(w, kernel_.tid[2], [&](int lane) { return (first + uint32_t(lane)) / b.dims[0] / b.dims[1]; });
    for (uint64_t lane = 0; lane < 32; ++lane) {
      w.at<uint64_t>(kernel_.parameter_base)[lane] = reinterpret_cast<uint64_t>(b.parameters);
      w.at<uint64_t>(kernel_.local_base)[lane] = reinterpret_cast<uint64_t>(w.local.data()) + lane * local;
    }
  }
  if (b.schedule.check_hazards) {
    for (Warp& w : b.warps) {
      w.clock.assign(b.warps.size(), 0);
      w.clock[size_t(w.index)] = 1;
    }
    b.hazards = std::make_shared<Hazards>(b, b.shared_bytes);
    b.grid = grid_.get();
  }
}

void Execution::begin() {
  if (!kernel_.waits_for_previous)
    throw Fault(FaultKind::hazard, "a kernel that is launched early never waits for the one before it: " + kernel_.name);
  for (uint32_t z = 0; z < launch_.grid[2]; ++z)
    for (uint32_t y = 0; y < launch_.grid[1]; ++y)
      for (uint32_t x = 0; x < launch_.grid[0]; ++x) {
        auto block = make_block(x, y, z);
        block->may_pass_wait = false;
        run_block(*block);
        begun_.push_back(std::move(block));
      }
}

void Execution::finish(const Execution* early) {
  if (grid_) grid_->beside(early ? early->grid_.get() : nullptr);
  if (!begun_.empty()) {
    for (auto& block : begun_) {
      block->may_pass_wait = true;
      for (Warp& w : block->warps) {
        bool at_barrier = false;
        for (const Barrier& barrier : block->barriers) at_barrier |= std::count(barrier.warps.begin(), barrier.warps.end(), w.index) > 0;
        if (!at_barrier) w.waiting = false;
      }
      run_block(*block);
      block.reset();
    }
    begun_.clear();
    return;
  }
  const uint64_t count = uint64_t(launch_.grid[0]) * launch_.grid[1] * launch_.grid[2];
  std::vector<uint64_t> order;
  if (const uint64_t most = launch_.schedule.most_blocks; most && count > most) {
    std::mt19937_64 draw(launch_.schedule.seed + count);
    order = {0, count - 1};
    while (order.size() < most) order.push_back(draw() % count);
  } else if (launch_.schedule.seed) {
    order.resize(count);
    std::iota(order.begin(), order.end(), uint64_t{0});
    std::shuffle(order.begin(), order.end(), std::mt19937(launch_.schedule.seed));
  }
  Block block;
  for (uint64_t i = 0; i < (order.empty() ? count : order.size()); ++i) {
    const uint64_t n = order.empty() ? i : order[i];
    prepare(block, uint32_t(n % launch_.grid[0]), uint32_t(n / launch_.grid[0] % launch_.grid[1]),
            uint32_t(n / launch_.grid[0] / launch_.grid[1]));
    run_block(block);
  }
}

}  // namespace ptx
