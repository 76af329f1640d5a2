// The CPU backend's thread pool and memory: every task once, exceptions come back, limits are read and kept.
#include <atomic>
#include <numeric>
#include <string>
#include <vector>

#include "check.h"
#include "cpu/memory.h"
#include "cpu/thread_pool.h"
#include "error.h"

using namespace chai;
using namespace chai::cpu;

TEST(cpu_pool_runs_every_task_once) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    CHECK(pool.threads() == threads);
    for (int round = 0; round < 300; ++round)
      for (const int count : {0, 1, 2, 7, 100}) {
        std::vector<std::atomic<int>> runs(size_t(count) + 1);
        std::atomic<bool> strange{false};
        pool.run(count, [&](int task, int worker) {
          if (task < 0 || task >= count || worker < 0 || worker >= threads) strange = true;
          ++runs[size_t(std::clamp(task, 0, count))];
        });
        bool once = !strange;
        for (int i = 0; i < count; ++i) once = once && runs[size_t(i)] == 1;
        CHECK(once);
      }
  }
}

TEST(cpu_pool_runs_more_tasks_than_a_ticket_holds) {
  ThreadPool pool(3);
  std::vector<std::atomic<uint8_t>> runs(200000);
  pool.run(int(runs.size()), [&](int task, int) { ++runs[size_t(task)]; });
  bool once = true;
  for (const auto& count : runs) once = once && count == 1;
  CHECK(once);
}

TEST(cpu_pool_brings_an_exception_back_and_goes_on) {
  ThreadPool pool(2);
  bool caught = false;
  try {
    pool.run(50, [](int task, int) {
      if (task == 31) throw Error(Code::device_fault, "task 31");
    });
  } catch (const Error& error) {
    caught = std::string(error.what()) == "task 31";
  }
  CHECK(caught);
  std::atomic<int> runs{0};
  pool.run(50, [&](int, int) { ++runs; });
  CHECK(runs == 50);
}

TEST(cpu_backend_refuses_impossible_thread_counts) {
  for (const int threads : {-1, 100000}) {
    bool refused = false;
    try {
      make_cpu_backend({threads});
    } catch (const Error& error) {
      refused = error.code == Code::option_invalid;
    }
    CHECK(refused);
  }
  CHECK(make_cpu_backend({1})->describe().find("1 thread)") != std::string::npos);
}

TEST(cpu_allocations_are_zero_aligned_and_refused_beyond_what_there_is) {
  for (const size_t bytes : {size_t{1}, size_t{100}, size_t{3} << 20}) {
    const Memory memory = allocate_memory(bytes, "a test");
    CHECK(reinterpret_cast<uintptr_t>(memory.get()) % 64 == 0);
    const auto* at = static_cast<const unsigned char*>(memory.get());
    CHECK(std::accumulate(at, at + bytes, 0) == 0);
  }
  for (const bool lazy : {false, true}) {
    std::string message;
    try {
      lazy ? reserve_memory(size_t{1} << 50, "the cache") : allocate_memory(size_t{1} << 50, "the cache");
    } catch (const Error& error) {
      if (error.code == Code::out_of_memory) message = error.what();
    }
    CHECK(message.find("1125899906842624") != std::string::npos && message.find("the cache") != std::string::npos);
  }
}
