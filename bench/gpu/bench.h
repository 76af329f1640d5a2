// What the sections of the GPU benchmark share. In: command line, measured times. Out: one JSON object a cell, one line each, written as it
// comes, so that a run that was broken off goes on where it stopped.
#pragma once
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "device_memory.h"
#include "runtime.h"
#include "smi.h"
#include "watchdog.h"

namespace chai::bench {

struct Options {
  std::string out = "build_gpu/results";
  std::string only;  // cells whose name contains it
  int device = 0;
  bool tiny = false;        // shapes small enough for the host shim
  bool again = false;       // measure cells that have a result already
  bool sm90 = false;        // prefill attention by the kernels made for Hopper, in `first` too; their cells are named apart
  bool own = false;         // the whole model without cuBLAS; cells of `first` are named apart
  double seconds = 420;     // of one section; it stops between two cells after that
  double cell_seconds = 0;  // of one cell, then it counts as hung; 0: 60, cells of a whole model 180
  Monitor* monitor = nullptr;
  std::set<std::string> retry;             // not empty: these cells alone, which failed in an earlier call (standing.h)
  std::set<std::string>* asked = nullptr;  // gets the names of the cells that a section has
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
  /// Whether this cell is still to be measured, which then begins. Throws OutOfTime when the section's time is up. A cell whose measuring
  /// ended two processes (a fault, a kernel that hangs) is not begun a third time: that is noted as its result.
  bool wants(const std::string& cell);
  /// Whether any of them is; for what is costly to set up.
  bool wants_any(const std::vector<std::string>& cells) const;
  /// Adds what the device said of itself meanwhile. Throws Throttled instead when it was slowed down.
  void add(Record record);
  /// The same for what is no measurement: failures, and what was computed from other cells.
  void note(const Record& record);
  /// A number of a cell measured before, in this or another section's file; 0 when there is none.
  static double find(const Options& options, const std::string& section, const std::string& cell, const std::string& field);

 private:
  const Options options_;
  bool is_open(const std::string& cell) const;
  void end_cell();
  std::unique_ptr<Watchdog> watchdog_;
  std::string path_, begun_path_;  // SECTION.begun: cells begun and not added yet, one a line and process
  std::set<std::string> known_, begun_;
  double started_;
};

struct OutOfTime {};
struct Throttled {
  std::string what, reasons;
};
/// What a kernel gave is not what it must give.
struct WrongOutput {
  double error = 0;  // relative
};

double now();  // seconds

struct Times {
  double median = 0, least = 0, most = 0;  // least and most: the tenth and the ninetieth percentile
  int count = 0;
  double spread() const { return median > 0 ? (most - least) / median : 0; }
};
Times times_of(std::vector<double> values);
Record& add_times(Record& record, const Times& times, double per = 1);

/// How often to run something: the clocks must have risen and the median be worth something.
struct Effort {
  double warm_seconds = 0.15, seconds = 0.4;
  int warm_runs = 3, least = 15, most = 301;
};
inline Effort effort_of(const Options& options) { return options.tiny ? Effort{0, 0, 1, 3, 3} : Effort{}; }

/// The same for what is beside the point and short.
inline Effort brief_effort_of(const Options& options) { return options.tiny ? effort_of(options) : Effort{0.02, 0.1, 3, 15, 101}; }

/// Times each call of `run` (which enqueues on `stream`) by events, microseconds. Calls are enqueued many at a time, so that no call's time
/// holds the host's: of each batch only those count that had another one in front of them.
Times time_runs(cuda::Stream stream, const Effort& effort, const std::function<void()>& run);

/// The same for what `enqueue` records as a graph: launches cost what they cost in a recorded step.
Times time_graph(cuda::Stream stream, const Effort& effort, const std::function<void()>& enqueue);

/// Runs `measure`, which adds the cell; where the device has not the memory for it, or a kernel's output is wrong, that is the cell's
/// result, and the next one is tried. A cell during which the device was slowed down is measured again, twice at most, then noted without a
/// time.
void measure_or_note(Results& results, const std::string& cell, const std::function<void()>& measure);

/// Random 16-bit numbers, uniform, of the given standard deviation; `as_bfloat16` else float16.
void fill_random(void* to, size_t elements, bool as_bfloat16, uint32_t seed, cuda::Stream stream, float deviation = 1);

/// Layers of `bytes` each that are read in turn until the second cache level holds none of the first one's any more: 2 GB, or 32.
int layers_beyond_cache(double bytes, const cuda::DeviceFacts& device, bool tiny);

// Sections
void measure_ceilings(const Options& options, const cuda::DeviceFacts& device);
void measure_decode(const Options& options, const cuda::DeviceFacts& device);
void measure_prefill(const Options& options, const cuda::DeviceFacts& device);
void measure_products(const Options& options, const cuda::DeviceFacts& device);
void measure_draws(const Options& options, const cuda::DeviceFacts& device);
void measure_model(const Options& options, const cuda::DeviceFacts& device);
void measure_first(const Options& options, const cuda::DeviceFacts& device);
void measure_memory(const Options& options, const cuda::DeviceFacts& device);
void soak(const Options& options, const cuda::DeviceFacts& device);
/// Exit status.
int write_logits(const std::string& path, const cuda::DeviceFacts& device);
/// 1 when a cell of `present` is more than 5 % and more than both spreads slower than in `committed`, or is missing from a section that
/// ran; else 4 when one has no time because the device was slowed down.
int compare(const std::string& committed, const std::string& present);

// Lines of our own making
/// On a line of its own, even behind one that a kill cut off.
void append_line(const std::string& path, const std::string& line);
std::vector<std::string> lines_of(const std::string& path);
/// Value of `"name":` as text; empty when it is not there.
std::string field_of(const std::string& line, const std::string& name);

}  // namespace chai::bench
