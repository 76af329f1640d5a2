// Records, files of results and times; see bench.h.
#include "bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <thread>

#include "error.h"
#include "standing.h"

namespace chai::bench {
namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 32 ? ' ' : c;
  }
  return out + "\"";
}

std::string shown(double value) {
  if (!std::isfinite(value)) return "null";
  char buffer[40];
  std::snprintf(buffer, sizeof buffer, "%.7g", value);
  return buffer;
}

std::string path_of(const Options& options, const std::string& section) { return options.out + "/" + section + ".jsonl"; }

bool ends_in_newline(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file || file.tellg() == std::streampos(0)) return true;
  file.seekg(-1, std::ios::end);
  return file.get() == '\n';
}

/// Of one cell, before it counts as hung.
double cell_seconds(const Options& options, const std::string& section) {
  if (options.cell_seconds > 0) return options.cell_seconds;
  if (options.tiny) return 600;  // through the host shim
  return section == "model" || section == "first" || section == "memory" ? 180 : 60;
}

}  // namespace

void append_line(const std::string& path, const std::string& line) {
  const bool torn = !ends_in_newline(path);
  std::ofstream(path, std::ios::app) << (torn ? "\n" : "") << line << "\n";
}

std::string field_of(const std::string& line, const std::string& name) {
  const std::string key = "\"" + name + "\":";
  const size_t at = line.find(key);
  if (at == std::string::npos) return "";
  const size_t from = at + key.size();
  if (from < line.size() && line[from] == '"') return line.substr(from + 1, line.find('"', from + 1) - from - 1);
  return line.substr(from, line.find_first_of(",}", from) - from);
}

std::vector<std::string> lines_of(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    while (!line.empty() && (line.back() == ',' || line.back() == ' ')) line.pop_back();
    if (line.size() > 2 && line.front() == '{' && line.back() == '}') lines.push_back(line);  // a line cut off by a kill is dropped
  }
  return lines;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

Record& Record::raw(const std::string& name, const std::string& json) {
  fields_.emplace_back(name, json);
  return *this;
}
Record& Record::number(const std::string& name, double value) { return raw(name, shown(value)); }
Record& Record::text(const std::string& name, const std::string& value) {
  if (name == "cell") cell_ = value;
  return raw(name, quoted(value));
}
std::string Record::json() const {
  std::string out = "{";
  for (const auto& [name, value] : fields_) out += (out.size() > 1 ? "," : "") + quoted(name) + ":" + value;
  return out + "}";
}

Results::Results(const Options& options, const std::string& section)
    : options_(options),
      watchdog_(std::make_unique<Watchdog>(path_of(options, section), cell_seconds(options, section))),
      path_(path_of(options, section)),
      begun_path_(options.out + "/" + section + ".begun"),
      started_(now()) {
  std::filesystem::create_directories(options.out);
  if (options.again && options.only.empty()) std::filesystem::remove(path_);
  if (options.again) {
    std::filesystem::remove(begun_path_);
    return;
  }
  for (const auto& [cell, standing] : standings(path_))
    if (!options.retry.count(cell)) known_.insert(cell);
  std::map<std::string, int> begun;
  std::ifstream file(begun_path_);
  for (std::string cell; std::getline(file, cell);) ++begun[cell];
  for (const auto& [cell, times] : begun)
    if (times > 1 && !known_.count(cell)) note(Record(cell).text("error", std::string(broken_off)));
}

bool Results::is_open(const std::string& cell) const {
  if (cell.find(options_.only) == std::string::npos) return false;
  if (options_.asked) options_.asked->insert(cell);
  if (known_.count(cell) || (!options_.retry.empty() && !options_.retry.count(cell))) return false;
  if (now() - started_ > options_.seconds) throw OutOfTime{};
  return true;
}

bool Results::wants(const std::string& cell) {
  if (!is_open(cell)) return false;
  if (begun_.insert(cell).second) std::ofstream(begun_path_, std::ios::app) << cell << "\n";
  watchdog_->begin(cell);
  if (options_.monitor) options_.monitor->start();
  return true;
}

bool Results::wants_any(const std::vector<std::string>& cells) const {
  return std::ranges::any_of(cells, [&](const std::string& cell) { return is_open(cell); });
}

void Results::add(Record record) {
  end_cell();
  if (options_.monitor && options_.monitor->watching()) {
    const Monitor::Seen seen = options_.monitor->seen_at_least_once();
    SmiFacts all = seen.latest;
    all.throttle = seen.throttle;
    if (all.throttled()) throw Throttled{record.cell() + ": " + all.csv, all.reasons()};
    Record smi("smi");
    smi.number("samples", seen.samples)
        .number("leastClockMHz", seen.least_clock)
        .number("mostClockMHz", seen.most_clock)
        .number("mostWatts", seen.most_watts);
    smi.number("mostCelsius", seen.most_celsius).number("usedMiB", seen.latest.used_mib).boolean("powerCapped", seen.throttle & 0x4u);
    record.raw("smi", smi.json());
  } else if (options_.monitor) {
    record.boolean("unwatched", true);  // no nvidia-smi: nobody knows whether the device was slowed down
  }
  note(record);
}

void Results::end_cell() {
  watchdog_->end();
  std::error_code ignored;
  std::filesystem::remove(begun_path_, ignored);
  begun_.clear();
}

void Results::note(const Record& record) {
  end_cell();
  const std::string line = record.json();
  append_line(path_, line);
  known_.insert(record.cell());
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

double Results::find(const Options& options, const std::string& section, const std::string& cell, const std::string& field) {
  double found = 0;  // the last one counts: it was measured again
  for (const std::string& line : lines_of(path_of(options, section)))
    if (field_of(line, "cell") == cell) found = std::atof(field_of(line, field).c_str());
  return found;
}

Times times_of(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2, tenth = values.size() / 10;
  const double median = values.size() % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
  return {median, values[tenth], values[values.size() - 1 - tenth], int(values.size())};
}

Record& add_times(Record& record, const Times& times, double per) {
  return record.number("us", times.median / per).number("spread", times.spread()).number("rounds", times.count);
}

Times time_runs(cuda::Stream stream, const Effort& effort, const std::function<void()>& run) {
  constexpr int batch = 16;
  std::vector<cuda::Event> events(batch + 1);
  for (cuda::Event& event : events) event = cuda::make_event();
  // Warm until clocks and caches are where they stay, and find out how long one takes.
  double one = 0;
  int runs = 0;
  for (const double from = now(); runs < effort.warm_runs || now() - from < effort.warm_seconds; ++runs) {
    const double started = now();
    run();
    cuda::synchronize(stream);
    one = now() - started;
  }
  const bool is_long = one > 0.05;  // then the host's part of a call is nothing
  const int least = one > 0.1 ? std::min(effort.least, 7) : effort.least;
  const int count = std::clamp(one > 0 ? int(effort.seconds / one) : effort.most, least, effort.most);
  const int at_once = is_long ? 1 : std::min(batch, effort.most);
  std::vector<double> microseconds;
  while (int(microseconds.size()) < count) {
    for (int i = 0; i < at_once; ++i) {
      cuda::record(events[size_t(i)], stream);
      run();
    }
    cuda::record(events[size_t(at_once)], stream);
    cuda::wait(events[size_t(at_once)]);
    // The first call of a batch met an idle device and may have waited for the host.
    for (int i = is_long ? 0 : 1; i < at_once; ++i)
      microseconds.push_back(1e3 * double(cuda::milliseconds_between(events[size_t(i)], events[size_t(i) + 1])));
  }
  for (const cuda::Event event : events) cuda::free_event(event);
  return times_of(microseconds);
}

Times time_graph(cuda::Stream stream, const Effort& effort, const std::function<void()>& enqueue) {
  enqueue();  // kernels are loaded when they are first launched: not while it records
  cuda::synchronize(stream);
  cuda::begin_capture(stream);
  enqueue();
  const cuda::Graph graph = cuda::end_capture(stream);
  const Times times = time_runs(stream, effort, [&] { cuda::replay(graph, stream); });
  cuda::free_graph(graph);
  return times;
}

void measure_or_note(Results& results, const std::string& cell, const std::function<void()>& measure) {
  constexpr int most_tries = 3;
  for (int tries = 1;; ++tries) {
    try {
      return measure();
    } catch (const Error& error) {
      if (error.code != Code::out_of_memory) throw;
      return results.note(Record(cell).boolean("fits", false).text("error", error.what()));
    } catch (const WrongOutput& wrong) {
      return results.note(Record(cell).text("error", std::string(wrong_output)).number("checked", wrong.error));
    } catch (const Throttled& throttled) {
      if (tries == most_tries)
        return results.note(Record(cell).text("error", std::string(throttled_error)).text("throttleReasons", throttled.reasons));
      std::fprintf(stderr, "slowed down, once more in 5 s: %s\n", throttled.what.c_str());
      std::this_thread::sleep_for(std::chrono::seconds(5));
    }
  }
}

int layers_beyond_cache(double bytes, const cuda::DeviceFacts& device, bool tiny) {
  if (tiny) return 2;
  const double enough = std::max(2e9, 32.0 * double(device.l2_bytes));
  return std::clamp(int(std::ceil(enough / bytes)), 1, 32);
}

}  // namespace chai::bench
