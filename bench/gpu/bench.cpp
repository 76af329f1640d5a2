// Records, files of results, times and nvidia-smi; see bench.h.
#include "bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

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
  std::snprintf(buffer, sizeof buffer, "%.6g", value);
  return buffer;
}

std::string path_of(const Options& options, const std::string& section) { return options.out + "/" + section + ".jsonl"; }

/// Value of `"name":` in a line of our own making, as text; empty when it is not there.
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

std::string output_of(const std::string& command) {
  std::string out;
  if (FILE* pipe = popen(command.c_str(), "r")) {
    char buffer[512];
    while (std::fgets(buffer, sizeof buffer, pipe)) out += buffer;
    if (pclose(pipe) != 0) return "";
  }
  while (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

}  // namespace

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
    : options_(options), path_(path_of(options, section)), started_(now()) {
  std::filesystem::create_directories(options.out);
  if (options.again) std::filesystem::remove(path_);
  for (const std::string& line : lines_of(path_)) known_.insert(field_of(line, "cell"));
}

bool Results::wants(const std::string& cell) const {
  if (known_.count(cell)) return false;
  if (now() - started_ > options_.seconds) throw OutOfTime{};
  return true;
}

void Results::add(const Record& record) {
  const std::string line = record.json();
  std::ofstream(path_, std::ios::app) << line << "\n";
  known_.insert(record.cell());
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

double Results::find(const Options& options, const std::string& section, const std::string& cell, const std::string& field) {
  for (const std::string& line : lines_of(path_of(options, section)))
    if (field_of(line, "cell") == cell) return std::atof(field_of(line, field).c_str());
  return 0;
}

Times times_of(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const size_t tenth = values.size() / 10;
  return {values[values.size() / 2], values[tenth], values[values.size() - 1 - tenth], int(values.size())};
}

std::string SmiFacts::json() const {
  Record record("smi");
  record.text("name", name).text("driver", driver).number("smClockMHz", sm_clock).number("memoryClockMHz", memory_clock);
  record.number("watts", watts).number("wattLimit", watt_limit).number("celsius", celsius).number("usedMiB", used_mib);
  record.number("throttleReasons", double(throttle)).boolean("powerCapped", throttle & 0x4u).boolean("throttled", throttled());
  return record.json();
}

SmiFacts smi_facts(int device) {
  SmiFacts facts;
  const std::string fields = "name,driver_version,clocks.sm,clocks.mem,power.draw,power.limit,temperature.gpu,memory.used,";
  for (const char* reasons : {"clocks_event_reasons.active", "clocks_throttle_reasons.active"}) {
    facts.csv = output_of("nvidia-smi --query-gpu=" + fields + reasons + " --format=csv,noheader,nounits -i " + std::to_string(device) +
                          " 2>/dev/null");
    if (!facts.csv.empty()) break;
  }
  std::vector<std::string> values;
  std::stringstream stream(facts.csv);
  for (std::string value; std::getline(stream, value, ',');) values.push_back(value.substr(value.find_first_not_of(' ')));
  if (values.size() < 9) return facts;
  const auto number = [&](size_t i) { return std::atof(values[i].c_str()); };
  facts.name = values[0], facts.driver = values[1];
  facts.sm_clock = number(2), facts.memory_clock = number(3), facts.watts = number(4), facts.watt_limit = number(5);
  facts.celsius = number(6), facts.used_mib = number(7), facts.throttle = std::strtoull(values[8].c_str(), nullptr, 16);
  return facts;
}

int compare(const std::string& committed, const std::string& present) {
  int losses = 0, compared = 0;
  const std::vector<std::string> before = lines_of(committed);
  if (before.empty()) {
    std::fprintf(stderr, "%s holds no results to compare with\n", committed.c_str());
    return 2;
  }
  for (const std::string& line : lines_of(present)) {
    const std::string cell = field_of(line, "cell");
    const double us = std::atof(field_of(line, "us").c_str());
    if (us <= 0) continue;
    for (const std::string& old : before) {
      const double old_us = std::atof(field_of(old, "us").c_str());
      if (field_of(old, "cell") != cell || old_us <= 0) continue;
      ++compared;
      const double spread = std::max(std::atof(field_of(line, "spread").c_str()), std::atof(field_of(old, "spread").c_str()));
      const double loss = us / old_us - 1;
      if (loss <= 0.05 + spread) continue;
      ++losses;
      std::printf("slower: %s, %.6g us, was %.6g us (+%.1f %%, spread %.1f %%)\n", cell.c_str(), us, old_us, 100 * loss, 100 * spread);
    }
  }
  std::printf("%d cells compared, %d slower by more than 5 %% beyond the spread\n", compared, losses);
  return compared == 0 ? 2 : losses > 0;
}

}  // namespace chai::bench
