// The pool runs every task of every job exactly once, however short the jobs and however late a thread wakes.
#include "cpu/thread_pool.h"

#include <atomic>
#include <stdexcept>
#include <vector>

#include "check.h"

namespace chai::cpu {

TEST(short_jobs_of_changing_size_run_each_task_once) {
  ThreadPool pool(4);
  for (int job = 0; job < 20000; ++job) {
    const int count = 1 + job % 7;
    std::vector<std::atomic<int>> runs(8);
    pool.run(count, [&](int task, int) { ++runs[size_t(task)]; });
    bool once = true;
    for (int task = 0; task < 8; ++task) once &= runs[size_t(task)] == (task < count);
    CHECK(once);
  }
}

TEST(a_task_that_throws_is_reported_after_all_have_run) {
  ThreadPool pool(3);
  for (int job = 0; job < 100; ++job) {
    std::atomic<int> runs = 0;
    bool thrown = false;
    try {
      pool.run(9, [&](int task, int) {
        ++runs;
        if (task == 4) throw std::runtime_error("task 4");
      });
    } catch (const std::runtime_error&) {
      thrown = true;
    }
    CHECK(thrown && runs == 9);
  }
}

}  // namespace chai::cpu
