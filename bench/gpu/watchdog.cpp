// A thread that waits for the end of each cell; see watchdog.h.
#include "watchdog.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <utility>

#include "bench.h"
#include "standing.h"

namespace chai::bench {

Watchdog::Watchdog(std::string path, double seconds) : path_(std::move(path)), seconds_(seconds), thread_([this] { watch(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard hold(mutex_);
    over_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void Watchdog::begin(const std::string& cell) {
  const std::lock_guard hold(mutex_);
  cell_ = cell, until_ = now() + seconds_;
  changed_.notify_one();
}

void Watchdog::end() {
  const std::lock_guard hold(mutex_);
  cell_.clear();
}

void Watchdog::watch() {
  std::unique_lock hold(mutex_);
  while (!over_) {
    if (cell_.empty()) {
      changed_.wait(hold);
      continue;
    }
    if (const double left = until_ - now(); left > 0) {
      changed_.wait_for(hold, std::chrono::duration<double>(left));
      continue;
    }
    const std::string line = Record(cell_).text("error", std::string(not_done) + std::to_string(int(seconds_)) + " s").json();
    append_line(path_, line);
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
    _exit(hung_status);  // destructors would wait for the device
  }
}

}  // namespace chai::bench
