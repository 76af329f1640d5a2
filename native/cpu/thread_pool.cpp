// A few threads that share the tasks of one call; see thread_pool.h.
#include "thread_pool.h"

#include <system_error>
#include <utility>

#include "../platform/platform.h"

namespace chai::cpu {
namespace {

// About 10 to 20 microseconds: the time between two products of a step. Longer spinning takes the core from whoever else needs it.
constexpr int spins = 400;
constexpr uint64_t no_task = 0x7fffffff;  // lower half of a ticket under which nothing can be claimed

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  const platform::WithoutSignals quiet;
  try {
    for (int worker = 1; worker < threads; ++worker) workers_.emplace_back([this, worker] { serve(worker); });
  } catch (const std::system_error&) {
    // The system gives no more threads: work with those there are.
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  published_.fetch_add(1);
  published_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::start(int count, Call call, void* context) {
  error_ = nullptr;
  // First no ticket can be claimed: a worker that still holds the last job's ticket must not take a task of it with the new job's fields.
  // Whoever reads a new field (acquire) also sees this store, so its claim fails.
  const uint64_t generation = (ticket_.load(std::memory_order_relaxed) >> 32) + 1;
  ticket_.store(generation << 32 | no_task, std::memory_order_relaxed);
  unfinished_.store(count, std::memory_order_release);
  call_.store(call, std::memory_order_release);
  context_.store(context, std::memory_order_release);
  count_.store(count, std::memory_order_release);
  ticket_.store(generation << 32, std::memory_order_release);
  published_.fetch_add(1);
  if (sleepers_.load() > 0) published_.notify_all();
  work(0);
  int left = unfinished_.load(std::memory_order_acquire);
  for (int spin = 0; left > 0 && spin < spins; ++spin, left = unfinished_.load(std::memory_order_acquire)) pause();
  for (; left > 0; left = unfinished_.load(std::memory_order_acquire)) unfinished_.wait(left, std::memory_order_acquire);
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void ThreadPool::work(int worker) {
  uint64_t ticket = ticket_.load(std::memory_order_acquire);
  for (;;) {
    const int task = int(uint32_t(ticket));
    const Call call = call_.load(std::memory_order_acquire);
    void* const context = context_.load(std::memory_order_acquire);
    if (task >= count_.load(std::memory_order_acquire)) return;
    if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
    try {
      call(context, task, worker);
    } catch (...) {
      const std::lock_guard hold(error_mutex_);
      if (!error_) error_ = std::current_exception();
    }
    if (unfinished_.fetch_sub(1, std::memory_order_acq_rel) == 1) unfinished_.notify_one();
    ticket = ticket_.load(std::memory_order_acquire);
  }
}

void ThreadPool::serve(int worker) {
  uint32_t seen = 0;
  for (;;) {
    uint32_t now = published_.load();
    for (int spin = 0; now == seen && spin < spins; ++spin, now = published_.load(std::memory_order_acquire)) pause();
    if (now == seen) {
      sleepers_.fetch_add(1);
      published_.wait(seen);
      sleepers_.fetch_sub(1);
      now = published_.load();
    }
    seen = now;
    if (stop_.load()) return;
    work(worker);
  }
}

}  // namespace chai::cpu
