// Fibers, warps and blocks of the SIMT shim: how CUDA threads take turns on one OS thread. In: a grid and a body. Out: the body run for
// every thread, collectives and barriers honoured.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
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

/// What the lanes of a partial collective published, until each of them has come to its next one.
struct Snapshot {
  uint32_t readers = 0;
  alignas(64) uint64_t slot[32][8];
};

struct Warp {
  uint32_t arrived = 0, alive = 0;  // lanes waiting in a collective, lanes not yet exited
  uint32_t mask[32] = {};           // that each waiting lane named
  const char* what[32] = {};
  // Collectives of the whole warp: 64 bytes a lane, two halves, so that one barrier a collective is enough.
  unsigned turn[32] = {};  // such collectives that each lane has done: picks the half
  alignas(64) uint64_t slot[2][32][8] = {};
  // Collectives of some lanes: other lanes may be one ahead or behind, so each gets a copy of its own.
  alignas(64) uint64_t partial[32][8] = {};
  std::vector<std::shared_ptr<Snapshot>> snapshots;
  Snapshot* held[32] = {};  // that each lane may still read
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

/// Runs `work` now, or records it when this thread is recording the stream.
void enqueue(const void* stream, std::function<void()> work);
/// From here until end_recording, this thread's work on the stream is kept instead of run. False: a recording is open already.
bool begin_recording(const void* stream);
bool recording();
std::vector<std::function<void()>> end_recording();

}  // namespace simt
