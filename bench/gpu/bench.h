// What the sections of the GPU benchmark share. In: command line, measured times. Out: one JSON object a cell, one line each, written as it
// comes, so that a run that was broken off goes on where it stopped.
#pragma once
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "device_memory.h"
#include "runtime.h"

namespace chai::bench {

struct Options {
  std::string out = "build_gpu/results";
  int device = 0;
  bool tiny = false;     // shapes small enough for the host shim
  bool again = false;    // measure cells that have a result already
  double seconds = 420;  // of one section; it stops between two cells after that
};

/// Ordered fields of one JSON object.
class Record {
 public:
  explicit Record(std::string cell) { text("cell", std::move(cell)); }
  Record& number(const std::string& name, double value);
  Record& text(const std::string& name, const std::string& value);
  Record& boolean(const std::string& name, bool value) { return raw(name, value ? "true" : "false"); }
  Record& raw(const std::string& name, const std::string& json);
  std::string json() const;
  std::string cell() const { return cell_; }

 private:
  std::string cell_;
  std::vector<std::pair<std::string, std::string>> fields_;
};

/// The file of one section, OUT/SECTION.jsonl.
class Results {
 public:
  Results(const Options& options, const std::string& section);
  /// Whether this cell is still to be measured. Throws when the section's time is up.
  bool wants(const std::string& cell) const;
  void add(const Record& record);
  /// A number of a cell measured before, in this or another section's file; 0 when there is none.
  static double find(const Options& options, const std::string& section, const std::string& cell, const std::string& field);

 private:
  const Options options_;
  std::string path_;
  std::set<std::string> known_;
  double started_;
};

struct OutOfTime {};

double now();  // seconds
struct Times {
  double median = 0, least = 0, most = 0;
  int count = 0;
};
Times times_of(std::vector<double> values);

/// Records `enqueue` as a graph, replays it `warm` + `rounds` times, and times each replay by events; microseconds.
template <class Enqueue>
Times time_graph(cuda::Stream stream, int warm, int rounds, Enqueue enqueue) {
  cuda::begin_capture(stream);
  enqueue();
  const cuda::Graph graph = cuda::end_capture(stream);
  const cuda::Event from = cuda::make_event(), to = cuda::make_event();
  std::vector<double> microseconds;
  for (int i = 0; i < warm + rounds; ++i) {
    cuda::record(from, stream);
    cuda::replay(graph, stream);
    cuda::record(to, stream);
    cuda::wait(to);
    if (i >= warm) microseconds.push_back(1e3 * double(cuda::milliseconds_between(from, to)));
  }
  cuda::free_event(from), cuda::free_event(to), cuda::free_graph(graph);
  return times_of(microseconds);
}
/// The same without a graph.
template <class Enqueue>
Times time_eager(cuda::Stream stream, int warm, int rounds, Enqueue enqueue) {
  const cuda::Event from = cuda::make_event(), to = cuda::make_event();
  std::vector<double> microseconds;
  for (int i = 0; i < warm + rounds; ++i) {
    cuda::record(from, stream);
    enqueue();
    cuda::record(to, stream);
    cuda::wait(to);
    if (i >= warm) microseconds.push_back(1e3 * double(cuda::milliseconds_between(from, to)));
  }
  cuda::free_event(from), cuda::free_event(to);
  return times_of(microseconds);
}

/// What nvidia-smi says of the device; empty fields where it is missing.
struct SmiFacts {
  std::string csv;  // as printed
  double sm_clock = 0, memory_clock = 0, watts = 0, watt_limit = 0, celsius = 0, used_mib = 0;
  uint64_t throttle = 0;  // bits of clocks_event_reasons.active
  std::string name, driver;
  /// Slowed down by heat or by the board, not merely by its power limit.
  bool throttled() const { return throttle & (0x8u | 0x20u | 0x40u | 0x80u); }
  std::string json() const;
};
SmiFacts smi_facts(int device);

/// Random 16-bit numbers of about unit size; `as_bfloat16` else float16.
void fill_random(void* to, size_t elements, bool as_bfloat16, uint32_t seed, cuda::Stream stream);

// Sections
void measure_ceilings(const Options& options, const cuda::DeviceFacts& device);
void measure_decode(const Options& options, const cuda::DeviceFacts& device);
void measure_prefill(const Options& options, const cuda::DeviceFacts& device);
void measure_model(const Options& options, const cuda::DeviceFacts& device);
/// 1 when a cell of `present` is more than 5 % and more than both spreads slower than in `committed`.
int compare(const std::string& committed, const std::string& present);

}  // namespace chai::bench
