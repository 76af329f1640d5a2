// Joins the ready segments of all open sequences into steps and runs them on one thread. In: requests. Out: their callbacks.
// One lock guards all bookkeeping (sequences, page pool, requests); it is never held while a step computes or a callback runs.
// Where the backend allows, decode steps follow each other without waiting for results: see scheduler_ahead.cpp.
#pragma once
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "backend.h"
#include "forward.h"
#include "kv_cache.h"
#include "request.h"
#include "sequence.h"
#include "weights.h"

namespace chai {

struct StepLimits {
  int rows = 512;       // rows of a step
  int sequences = 16;   // sequences of a step
  int logit_rows = 16;  // rows of a step whose logits are computed; >= sequences
};

/// Everything a step needs; owned by the scheduler, freed when its thread ends.
struct Machine {
  std::unique_ptr<Backend> backend;  // first in, last out: the rest lives in its memory
  LoadedWeights loaded;
  Memory pool_memory;
  PoolView pool;
  Activations activations;
  uint64_t buffer_bytes = 0;
};

class Scheduler : public std::enable_shared_from_this<Scheduler> {
 public:
  Scheduler(std::shared_ptr<const Config> config, Machine machine, std::shared_ptr<PagePool> pages, StepLimits limits);

  void start();
  /// Idempotent; see Engine::close.
  void close();
  bool closed() const { return closing_; }

  /// The lock that every method below, and every access to a Sequence, needs held.
  std::unique_lock<std::mutex> lock() const { return std::unique_lock(mutex_); }

  std::shared_ptr<Sequence> open(std::shared_ptr<const PlanGeometry> geometry);
  std::shared_ptr<Sequence> fork(const Sequence& sequence);
  void submit(std::shared_ptr<Request> request);
  /// Ends a request with `error`, now or when the next of its steps is over.
  void interrupt(Request& request, std::exception_ptr error, Callbacks& callbacks);
  void close_sequence(Sequence& sequence, Callbacks& callbacks);
  /// Work on the backend's memory: runs once when no step is in flight, on the engine's thread without the lock; with null when the engine
  /// ends first. It must not throw.
  using Errand = std::function<void(Backend* backend)>;
  void run_errand(Errand errand);
  /// Something changed that may let a paused or starved request run.
  void wake();

  const Config& config() const { return *config_; }
  size_t page_bytes() const { return machine_.pool.page_bytes; }
  EngineStats stats() const { return stats_; }
  MemoryUse memory() const;

 private:
  struct Part {
    std::shared_ptr<Request> request;  // null: it ended while this step was in flight, which computes its rows in vain
    Share share;
    bool finds_membership;  // its warm-up ends in this step
  };
  /// Why a step did not run to its end. `of` set: nothing ran, and the others of the step are planned again without that request.
  struct Failure {
    std::exception_ptr error;
    const Request* of = nullptr;
  };
  using Clock = std::chrono::steady_clock;
  /// A step from its plan until its results are known.
  struct Flight {
    Step step;
    std::vector<Part> parts;
    Failure failure;
    Clock::time_point start;
  };

  void run();
  bool launch(std::unique_lock<std::mutex>& hold, Callbacks& callbacks);
  void land(std::unique_lock<std::mutex>& hold, Callbacks& callbacks);
  void plan(Flight& flight, Callbacks& callbacks);
  void add(const std::shared_ptr<Request>& request, Flight& flight, Callbacks& callbacks);
  void plan_ahead(Flight& flight);
  bool reserve_ahead(const std::vector<const Part*>& parts);
  void put(const std::shared_ptr<Request>& request, Flight& flight, int from, int count, int draw);
  void keep_source_queries(const HeadPlan& plan);
  void collect(Request& request);
  void prepare(Flight& flight);
  void enqueue(Flight& flight);
  void finish(Flight& flight);
  void commit(Flight& flight, double milliseconds, Callbacks& callbacks);
  void leave(Request& request);
  void end(Request& request, std::exception_ptr error, Callbacks& callbacks);
  void drop(Request& request, std::exception_ptr error, Callbacks& callbacks);
  void fail_starved(Callbacks& callbacks);
  bool run_errands(std::unique_lock<std::mutex>& hold);
  void shut_down(Callbacks& callbacks);

  std::shared_ptr<const Config> config_;
  Machine machine_;
  std::shared_ptr<PagePool> pages_;
  const StepLimits limits_;
  std::vector<bool> own_queries_;  // [layers]

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool change_ = false, closing_ = false;
  std::vector<std::shared_ptr<Request>> active_;   // in turn order: those longest not served first
  std::vector<std::shared_ptr<Request>> starved_;  // of the last plan: no pages left for them
  std::deque<Flight> flights_;                     // oldest first; the engine's thread alone uses it
  Clock::time_point landed_;                       // when the last of them was over
  std::vector<std::weak_ptr<Sequence>> sequences_;
  std::vector<Errand> errands_;
  EngineStats stats_;
  uint64_t next_order_ = 0;
  std::thread thread_;
  std::once_flag joined_;
};

}  // namespace chai
