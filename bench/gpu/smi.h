// What nvidia-smi says of a device while it is measured. In: a device's number. Out: clocks, power, temperature, used memory, and whether
// it was slowed down meanwhile.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

namespace chai::bench {

struct SmiFacts {
  std::string csv;  // as printed; empty: nvidia-smi is missing or fails
  std::string name, driver;
  double sm_clock = 0, memory_clock = 0, watts = 0, watt_limit = 0, celsius = 0, used_mib = 0;
  uint64_t throttle = 0;  // bits of clocks_event_reasons.active
  /// Slowed down by heat or by the board (NVML: HwSlowdown 8, SwThermal 20, HwThermal 40, HwPowerBrake 80), not merely by its power limit.
  bool throttled() const { return throttle & (0x8u | 0x20u | 0x40u | 0x80u); }
  /// NVML's names of what throttled() asks for.
  std::string reasons() const;
  std::string json() const;
};

/// Asks once.
SmiFacts smi_facts(int device);

/// Asks four times a second while it lives; a slow-down between two cells or inside one is seen either way.
class Monitor {
 public:
  explicit Monitor(int device);
  ~Monitor();
  bool watching() const;
  /// Forgets what was seen but the latest.
  void start();
  struct Seen {
    int samples = 0;
    double least_clock = 0, most_clock = 0, most_watts = 0, most_celsius = 0;  // MHz of the multiprocessors
    uint64_t throttle = 0;
    SmiFacts latest;
  };
  Seen seen() const;
  /// The same; a cell shorter than the time between two samples asks now.
  Seen seen_at_least_once();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace chai::bench
