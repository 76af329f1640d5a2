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

/// A warpgroup product under way: every lane computes its part at the wait that covers it, reading registers and shared memory as they are
/// then (seeds with bit 1 clear), so that what was touched too early shows.
struct PendingProduct {
  void (*run)(const PendingProduct&);
  float* sums;
  const uint32_t* fragments;  // null: the first matrix lies in shared memory, at first_matrix
  uint64_t first_matrix, second_matrix;
  bool add;
  unsigned group;
};

/// A box on its way from a tensor in global memory to shared memory.
struct BoxCopy {
  unsigned char* to;
  const unsigned char* from;  // first line; null: all zeros
  uint64_t line_bytes;        // between lines of the tensor
  uint64_t* barrier;
  void (*land)(const BoxCopy&);
};

enum class State : uint8_t { ready, in_collective, at_barrier, at_some_barrier, at_shared_barrier, done };

struct Fiber {
  void* stack_pointer = nullptr;
  State state = State::ready;
  dim3 thread;
  unsigned index = 0;  // of the thread in its block
  std::vector<PendingCopy> copies;
  unsigned copy_group = 0;
  std::vector<PendingProduct> products;
  unsigned product_group = 0;
  bool products_open = false;         // between product_begin and product_wait
  uint16_t fences = 0;                // fence_for_products so far
  const uint64_t* awaited = nullptr;  // barrier in shared memory, and the parity that ends the wait when it is over
  uint32_t awaited_parity = 0;
  unsigned some_barrier = 0;
};

/// Who wrote 16 bytes of shared memory last by plain means, and how many fences that thread had called: 0 for nobody.
struct Writer {
  uint16_t thread = 0, fences = 0;
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
  unsigned some_waiting[16] = {};  // threads at barrier_of_some, by id
  std::vector<BoxCopy> boxes;      // under way
  std::vector<Writer> writers;     // of each 16 bytes of dynamic shared memory
};

extern thread_local Block* current;
/// 0: lanes in order, asynchronous copies land late. Others: shuffled order; odd ones land copies at once.
extern uint64_t seed;

using Slots = uint64_t (*)[8];

[[noreturn]] void die(const char* message, const char* detail);
void block_barrier();
void barrier_of_some(unsigned id, unsigned threads);
/// Lets others run; back when the running fiber's state is ready.
void yield();
/// The running thread wrote 16 bytes of shared memory, not through a tensor copy.
void wrote_shared(const void* to);
/// Null outside the block's dynamic shared memory.
Writer* writer_of(const void* at);
/// Publishes n <= 64 bytes, waits for all lanes of the mask, returns what each lane published.
Slots collective(uint32_t mask, const char* what, const void* from, size_t n);
inline unsigned lane() { return current->fiber->index & 31; }

void launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& body);

/// Work on streams waits until somebody waits for it, as on a device that is slower than the host. Set it while no stream has work.
extern bool late;
/// Runs what waits, oldest first, until `done` holds or nothing is left.
void run_late(const std::function<bool()>& done);

/// Runs `work` now (later when `late`), or records it when this thread is recording the stream.
void enqueue(const void* stream, std::function<void()> work);
/// From here until end_recording, this thread's work on the stream is kept instead of run. False: a recording is open already.
bool begin_recording(const void* stream);
bool recording();
std::vector<std::function<void()>> end_recording();

}  // namespace simt
