// A few threads that share the tasks of one call. In: a count and a function of (task, worker). Out: nothing until all tasks have run.
#pragma once
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace chai::cpu {

/// The calling thread works too, as worker 0. Tasks are handed out one by one, so a worker that the system does not schedule costs nothing
/// but the task it holds. Waiting threads spin a few microseconds, then sleep. One caller at a time.
class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // threads >= 1, the caller included
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return int(workers_.size()) + 1; }

  /// Runs body(task, worker) for every task in [0, count). The first exception is thrown again here when all tasks are over.
  template <class Body>
  void run(int count, Body&& body) {
    if (count <= 1 || workers_.empty()) {
      for (int task = 0; task < count; ++task) body(task, 0);
      return;
    }
    start(
        count, [](void* context, int task, int worker) { (*static_cast<std::remove_reference_t<Body>*>(context))(task, worker); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  using Call = void (*)(void* context, int task, int worker);
  void start(int count, Call call, void* context);
  void work(int worker);
  void serve(int worker);

  // A job is published by a new generation in the upper half of `ticket_`; the lower half is the next task. A task is claimed by moving
  // the ticket on, which fails once the generation has changed: what was read of the job before is then not used.
  std::atomic<uint64_t> ticket_{0};
  std::atomic<int> count_{0};
  std::atomic<Call> call_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<int> unfinished_{0};
  std::atomic<uint32_t> published_{0};  // generation, for sleepers
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex error_mutex_;
  std::exception_ptr error_;
  std::vector<std::thread> workers_;
};

}  // namespace chai::cpu
