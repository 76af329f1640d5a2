// Fibers, warps and blocks of the SIMT shim: how CUDA threads take turns on one OS thread. In: a grid and a body. Out: the body run for
// every thread, collectives and barriers honoured.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "simt_types.h"

namespace simt {

struct PendingCopy {
  void* to;
  const void* from;  // null: zeros
  unsigned bytes, group;
  void land() const;
};

enum class State : uint8_t { ready, in_collective, at_barrier, done };

struct Fiber {
  void* stack_pointer = nullptr;
  State state = State::ready;
  dim3 thread;
  unsigned index = 0;  // of the thread in its block
  std::vector<PendingCopy> copies;
  unsigned copy_group = 0;
};

struct Warp {
  uint32_t arrived = 0, alive = 0;  // lanes waiting in a collective, lanes not yet exited
  uint32_t mask[32] = {};           // that each waiting lane named
  const char* what[32] = {};
  unsigned turn[32] = {};                    // collectives that each lane has done: picks the half of `slot`
  alignas(64) uint64_t slot[2][32][8] = {};  // 64 bytes a lane, two halves, so that one barrier a collective is enough
};

struct Block {
  void* scheduler = nullptr;  // stack pointer of the scheduling loop
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Fiber* fiber = nullptr;  // the one that runs
  dim3 block, block_size, grid_size;
  const std::function<void()>* body = nullptr;
  unsigned char* shared = nullptr;
  size_t shared_bytes = 0;
  unsigned waiting = 0, live = 0;
};

extern thread_local Block* current;
/// 0: lanes in order, asynchronous copies land late. Others: shuffled order; odd ones land copies at once.
extern uint64_t seed;

using Slots = uint64_t (*)[8];

[[noreturn]] void die(const char* message, const char* detail);
void block_barrier();
/// Publishes n <= 64 bytes, waits for all lanes of the mask, returns what each lane published.
Slots collective(uint32_t mask, const char* what, const void* from, size_t n);
inline unsigned lane() { return current->fiber->index & 31; }

void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);

}  // namespace simt
