// The scheduler of the SIMT shim; see simt_fiber.h.
#include "simt_fiber.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#if !defined(__x86_64__)
#include <ucontext.h>

#include <map>
#endif

namespace simt {

thread_local Block* current = nullptr;
uint64_t seed = 0;

namespace {

constexpr size_t stack_bytes = 128 << 10;

// ---- one fiber to another ----
#if defined(__x86_64__)
extern "C" void chai_simt_switch(void** save, void* load);
asm(R"(.text
.globl chai_simt_switch
.type chai_simt_switch,@function
chai_simt_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi); movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.size chai_simt_switch,.-chai_simt_switch
)");
void switch_to(void** save, void* load) { chai_simt_switch(save, load); }
void* prepare_stack(unsigned char* stack, void (*entry)()) {
  void** top = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(stack + stack_bytes) & ~uintptr_t{15});
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  return top;
}
#else
void switch_to(void** save, void* load) {
  ucontext_t here;
  *save = &here;
  swapcontext(&here, static_cast<ucontext_t*>(load));
}
void* prepare_stack(unsigned char* stack, void (*entry)()) {
  auto* context = reinterpret_cast<ucontext_t*>(stack);  // at the low end, which the fiber does not reach
  getcontext(context);
  context->uc_stack.ss_sp = stack + sizeof(ucontext_t);
  context->uc_stack.ss_size = stack_bytes - sizeof(ucontext_t);
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}
#endif

/// Stacks outlive launches: mapping them anew costs more than most kernels.
class Stacks {
 public:
  unsigned char* take() {
    const std::lock_guard hold(mutex_);
    if (free_.empty()) {
      void* stack = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (stack == MAP_FAILED) die("no memory for a fiber's stack", "");
      return static_cast<unsigned char*>(stack);
    }
    unsigned char* stack = free_.back();
    free_.pop_back();
    return stack;
  }
  void give_back(unsigned char* stack) {
    const std::lock_guard hold(mutex_);
    free_.push_back(stack);
  }

 private:
  std::mutex mutex_;
  std::vector<unsigned char*> free_;
};

Stacks& stacks() {
  static Stacks all;
  return all;
}

void run_fiber() {
  Block& block = *current;
  (*block.body)();
  Fiber& me = *block.fiber;
  if (me.products.size() > 0) die("a thread ends with products under way", "");  // no temporaries: this frame is never left
  me.state = State::done;
  --block.live;
  block.warps[me.index / 32].alive &= ~(1u << (me.index & 31));
  switch_to(&me.stack_pointer, block.scheduler);
  std::abort();  // a finished fiber is never resumed
}

struct Shuffle {
  uint64_t state;
  unsigned operator()(unsigned below) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return unsigned((state >> 11) % below);
  }
};

/// Runs the ready fibers of one warp until none is.
bool run_warp(Block& block, size_t warp, Shuffle& random) {
  const size_t first = warp * 32, count = std::min<size_t>(32, block.fibers.size() - first);
  uint8_t order[32];
  for (unsigned i = 0; i < 32; ++i) order[i] = uint8_t(i);
  bool any = false;
  for (bool again = true; again;) {
    again = false;
    if (seed)
      for (unsigned i = unsigned(count) - 1; i > 0; --i) std::swap(order[i], order[random(i + 1)]);
    for (size_t i = 0; i < count; ++i) {
      Fiber& fiber = block.fibers[first + order[i]];
      if (fiber.state != State::ready) continue;
      block.fiber = &fiber;
      switch_to(&block.scheduler, fiber.stack_pointer);
      any = again = true;
    }
  }
  return any;
}

void start_fibers(Block& block, std::vector<unsigned char*>& stack_of) {
  const size_t threads = size_t(block.block_size.x) * block.block_size.y * block.block_size.z;
  block.fibers.resize(threads);
  block.warps.assign((threads + 31) / 32, Warp{});
  block.live = unsigned(threads);
  block.waiting = 0;
  std::fill(std::begin(block.some_waiting), std::end(block.some_waiting), 0u);
  block.writers.assign(block.shared_bytes / 16, Writer{});
  while (stack_of.size() < threads) stack_of.push_back(stacks().take());
  for (size_t i = 0; i < threads; ++i) {
    Fiber& fiber = block.fibers[i];
    const unsigned x = block.block_size.x, y = block.block_size.y, at = unsigned(i);
    fiber.index = at;
    fiber.thread = dim3(at % x, at / x % y, at / x / y);
    fiber.state = State::ready;
    fiber.copies.clear();
    fiber.products.clear();
    fiber.copy_group = fiber.product_group = 0;
    fiber.products_open = false;
    fiber.fences = 0;
    fiber.stack_pointer = prepare_stack(stack_of[i], run_fiber);
    block.warps[i / 32].alive |= 1u << (i & 31);
  }
}

void run_block(Block& block, std::vector<unsigned char*>& stack_of) {
  current = &block;
  block.fiber = nullptr;
  if (block.shared_bytes) std::memset(block.shared, 0xff, block.shared_bytes);  // NaN: a read of what nobody wrote shows
  start_fibers(block, stack_of);
  Shuffle random{seed * 0x9e3779b97f4a7c15ull + block.block.x + 1};
  const size_t warps = block.warps.size();
  while (block.live) {
    bool any = false;
    const size_t first = seed ? random(unsigned(warps)) : 0;
    for (size_t i = 0; i < warps; ++i) any |= run_warp(block, (first + i) % warps, random);
    if (block.live && block.waiting == block.live) {
      block.waiting = 0;
      for (Fiber& fiber : block.fibers)
        if (fiber.state == State::at_barrier) fiber.state = State::ready;
      any = true;
    }
    if (!any && !block.boxes.empty()) {  // the latest moment, in any order
      std::swap(block.boxes[random(unsigned(block.boxes.size()))], block.boxes.back());
      const BoxCopy box = block.boxes.back();
      block.boxes.pop_back();
      box.land(box);
      any = true;
    }
    if (!any) die("deadlock: some threads wait in a warp collective or at a barrier that the others never reach", "");
  }
  if (!block.boxes.empty()) die("a block ends with tensor copies under way", "");
}

}  // namespace

void yield() { switch_to(&current->fiber->stack_pointer, current->scheduler); }

void die(const char* message, const char* detail) {
  const dim3 at = current ? current->block : dim3(0, 0, 0);
  std::fprintf(stderr, "simt: %s %s (block %u,%u,%u thread %u)\n", message, detail, at.x, at.y, at.z,
               current && current->fiber ? current->fiber->index : 0);
  std::abort();
}

void PendingCopy::land() const {
  if (from)
    std::memcpy(to, from, bytes);
  else
    std::memset(to, 0, bytes);
  wrote_shared(to);
}

void block_barrier() {
  current->fiber->state = State::at_barrier;
  ++current->waiting;
  yield();
}

void barrier_of_some(unsigned id, unsigned threads) {
  Block& block = *current;
  if (id == 0 || id > 15 || threads % 32) die("barrier_of_some wants ids 1 to 15 and whole warps", "");
  if (++block.some_waiting[id] < threads) {
    block.fiber->state = State::at_some_barrier;
    block.fiber->some_barrier = id;
    return yield();
  }
  block.some_waiting[id] = 0;
  for (Fiber& fiber : block.fibers)
    if (fiber.state == State::at_some_barrier && fiber.some_barrier == id) fiber.state = State::ready;
}

Writer* writer_of(const void* at) {
  const size_t offset = size_t(static_cast<const unsigned char*>(at) - current->shared);
  return offset / 16 < current->writers.size() ? &current->writers[offset / 16] : nullptr;
}

void wrote_shared(const void* to) {
  if (Writer* writer = writer_of(to)) *writer = {uint16_t(current->fiber->index + 1), current->fiber->fences};
}

namespace {

/// Lanes that a block of this size has in the warp.
uint32_t existing_lanes(const Block& block, unsigned warp) {
  const size_t lanes = std::min<size_t>(32, block.fibers.size() - warp * 32);
  return lanes == 32 ? ~0u : (1u << lanes) - 1;
}

void let_go(Warp& warp, unsigned lane) {
  if (warp.held[lane]) warp.held[lane]->readers &= ~(1u << lane);
  warp.held[lane] = nullptr;
}

/// A copy of what the lanes of `mask` published, which each of them holds until its next collective.
void hand_out(Warp& warp, uint32_t mask, size_t n) {
  Snapshot* free = nullptr;
  for (const auto& snapshot : warp.snapshots)
    if (snapshot->readers == 0) free = snapshot.get();
  if (!free) free = warp.snapshots.emplace_back(std::make_shared<Snapshot>()).get();
  free->readers = mask;
  for (uint32_t rest = mask; rest; rest &= rest - 1) {
    const int lane = std::countr_zero(rest);
    if (n) std::memcpy(free->slot[lane], warp.partial[lane], n);
    warp.held[lane] = free;
  }
}

}  // namespace

Slots collective(uint32_t mask, const char* what, const void* from, size_t n) {
  Block& block = *current;
  const unsigned lane = block.fiber->index & 31, at = block.fiber->index / 32;
  Warp& warp = block.warps[at];
  if (!(mask >> lane & 1)) die("a lane calls a collective that does not name it:", what);
  const uint32_t exist = existing_lanes(block, at);
  const bool whole = (mask & exist) == exist;
  const unsigned half = warp.turn[lane] & 1;
  if (whole) ++warp.turn[lane];
  let_go(warp, lane);
  if (n) std::memcpy(whole ? warp.slot[half][lane] : warp.partial[lane], from, n);
  warp.mask[lane] = mask, warp.what[lane] = what, warp.arrived |= 1u << lane;
  if (mask & exist & ~warp.alive) die("the mask names a lane that has exited:", what);
  mask &= warp.alive;
  if ((warp.arrived & mask) != mask) {
    block.fiber->state = State::in_collective;
    yield();
    return whole ? warp.slot[half] : warp.held[lane]->slot;
  }
  for (uint32_t rest = mask; rest; rest &= rest - 1) {
    const int other = std::countr_zero(rest);
    if (warp.mask[other] != warp.mask[lane] || warp.what[other] != what) die("lanes meet in different collectives:", what);
    block.fibers[at * 32 + size_t(other)].state = State::ready;
  }
  warp.arrived &= ~mask;
  if (!whole) hand_out(warp, mask, n);
  return whole ? warp.slot[half] : warp.held[lane]->slot;
}

namespace {

struct Recording {
  bool open = false;
  const void* stream = nullptr;
  std::vector<std::function<void()>> work;
};
thread_local Recording recorded;

struct Late {
  std::mutex mutex;
  std::deque<std::function<void()>> work;  // of all streams
};
Late& waiting_work() {
  static Late all;
  return all;
}

}  // namespace

bool late = false;

void run_late(const std::function<bool()>& done) {
  Late& waiting = waiting_work();
  const std::lock_guard hold(waiting.mutex);
  while (!done() && !waiting.work.empty()) {
    waiting.work.front()();
    waiting.work.pop_front();
  }
}

void enqueue(const void* stream, std::function<void()> work) {
  if (recorded.open && recorded.stream == stream) return recorded.work.push_back(std::move(work));
  if (!late || !stream) return work();
  const std::lock_guard hold(waiting_work().mutex);
  waiting_work().work.push_back(std::move(work));
}

bool begin_recording(const void* stream) {
  if (recorded.open) return false;
  recorded = {true, stream, {}};
  return true;
}
bool recording() { return recorded.open; }

std::vector<std::function<void()>> end_recording() {
  recorded.open = false;
  return std::move(recorded.work);
}

void launch(dim3 grid, dim3 block_size, size_t shared_bytes, const std::function<void()>& body) {
  const size_t blocks = size_t(grid.x) * grid.y * grid.z;
  if (blocks == 0 || size_t(block_size.x) * block_size.y * block_size.z > 1024)
    die("a launch of no blocks, or of more than 1024 threads", "");
  if (grid.y > 65535 || grid.z > 65535) die("a grid wider than 65535 in y or z", "");
  if (shared_bytes > 227 * 1024) die("more shared memory than a block can have", "");
  std::atomic<size_t> next{0};
  const auto work = [&] {
    Block block;
    std::vector<unsigned char*> stack_of;
    const std::unique_ptr<unsigned char[]> memory(new unsigned char[shared_bytes + 128]);
    block.grid_size = grid, block.block_size = block_size, block.body = &body, block.shared_bytes = shared_bytes;
    block.shared = reinterpret_cast<unsigned char*>((reinterpret_cast<uintptr_t>(memory.get()) + 127) & ~uintptr_t{127});
    for (size_t i; (i = next++) < blocks;) {
      block.block = dim3(unsigned(i % grid.x), unsigned(i / grid.x % grid.y), unsigned(i / grid.x / grid.y));
      run_block(block, stack_of);
    }
    for (unsigned char* stack : stack_of) stacks().give_back(stack);
    current = nullptr;
  };
  const size_t most = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> helpers;
  for (size_t i = 1; i < std::min(most, blocks); ++i) helpers.emplace_back(work);
  work();
  for (auto& helper : helpers) helper.join();
}

}  // namespace simt
