// Ends the process when a cell hangs: a kernel that never ends can be ended no other way. In: the cell that is measured. Out: its error as
// a line of the section's file, and exit status 5, so that the section can be begun again and goes on behind that cell.
#pragma once
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace chai::bench {

constexpr int hung_status = 5;

class Watchdog {
 public:
  /// `path`: the section's file; `seconds`: that one cell may take.
  Watchdog(std::string path, double seconds);
  ~Watchdog();
  void begin(const std::string& cell);
  void end();

 private:
  void watch();
  const std::string path_;
  const double seconds_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string cell_;  // empty: nothing is measured
  double until_ = 0;
  bool over_ = false;
  std::thread thread_;
};

}  // namespace chai::bench
