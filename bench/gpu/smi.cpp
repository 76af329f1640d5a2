// nvidia-smi as a child process; see smi.h.
#include "smi.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <sstream>
#include <thread>
#include <vector>

#include "bench.h"

extern char** environ;

namespace chai::bench {
namespace {

struct Child {
  pid_t pid = -1;
  FILE* out = nullptr;
};

/// A line must come as soon as it is printed: stdbuf sees to that where it is there.
Child start_smi(int device, const std::string& reasons, bool repeated, bool line_by_line = false) {
  std::vector<std::string> words = {
      "nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.mem,power.draw,power.limit,temperature.gpu,memory.used," + reasons,
      "--format=csv,noheader,nounits", "--id=" + std::to_string(device)};
  if (repeated) words.push_back("--loop-ms=250");
  if (line_by_line) words.insert(words.begin(), {"stdbuf", "-oL"});
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return {};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  Child child;
  if (posix_spawnp(&child.pid, words[0].c_str(), &actions, nullptr, arguments.data(), environ) != 0) child.pid = -1;
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  if (child.pid < 0)
    close(ends[0]);
  else
    child.out = fdopen(ends[0], "r");
  return child;
}

/// Its exit status.
int end(Child& child) {
  if (child.out) std::fclose(child.out);
  int status = 0;
  if (child.pid > 0) waitpid(child.pid, &status, 0);
  child = {};
  return status;
}

SmiFacts facts_of(std::string line) {
  while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
  std::vector<std::string> values;
  std::stringstream stream(line);
  for (std::string value; std::getline(stream, value, ',');)
    values.push_back(value.substr(std::min(value.find_first_not_of(' '), value.size())));
  SmiFacts facts;
  if (values.size() != 9) return facts;
  const auto number = [&](size_t i) { return std::atof(values[i].c_str()); };  // "[N/A]" is 0
  facts.csv = line, facts.name = values[0], facts.driver = values[1];
  facts.sm_clock = number(2), facts.memory_clock = number(3), facts.watts = number(4), facts.watt_limit = number(5);
  facts.celsius = number(6), facts.used_mib = number(7), facts.throttle = std::strtoull(values[8].c_str(), nullptr, 16);
  return facts;
}

/// The field's name before and since driver 535.
constexpr const char* reason_names[] = {"clocks_event_reasons.active", "clocks_throttle_reasons.active"};

SmiFacts ask(int device, const std::string& reasons) {
  Child child = start_smi(device, reasons, false);
  if (!child.out) return {};
  char line[1024] = "";
  const bool any = std::fgets(line, sizeof line, child.out) != nullptr;
  char rest[256];
  while (std::fgets(rest, sizeof rest, child.out)) {
  }
  return end(child) == 0 && any ? facts_of(line) : SmiFacts{};
}

}  // namespace

std::string SmiFacts::reasons() const {
  constexpr std::pair<uint64_t, const char*> names[] = {
      {0x8, "HwSlowdown"}, {0x20, "SwThermalSlowdown"}, {0x40, "HwThermalSlowdown"}, {0x80, "HwPowerBrakeSlowdown"}};
  std::string out;
  for (const auto& [bit, name] : names)
    if (throttle & bit) out += (out.empty() ? "" : ", ") + std::string(name);
  return out;
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
  for (const char* reasons : reason_names)
    if (facts.csv.empty()) facts = ask(device, reasons);
  return facts;
}

struct Monitor::State {
  mutable std::mutex mutex;
  Seen seen;
  bool over = false;
  Child child;
  std::thread thread;
  int device = 0;

  void note(const SmiFacts& facts) {
    const std::lock_guard hold(mutex);
    seen.least_clock = seen.samples ? std::min(seen.least_clock, facts.sm_clock) : facts.sm_clock;
    seen.most_clock = std::max(seen.most_clock, facts.sm_clock);
    seen.most_watts = std::max(seen.most_watts, facts.watts), seen.most_celsius = std::max(seen.most_celsius, facts.celsius);
    seen.throttle |= facts.throttle;
    seen.latest = facts;
    ++seen.samples;
  }
};

Monitor::Monitor(int device) : state_(std::make_shared<State>()) {
  state_->device = device;
  for (const char* reasons : reason_names) {
    const SmiFacts first = ask(device, reasons);
    if (first.csv.empty()) continue;
    state_->note(first);
    state_->child = start_smi(device, reasons, true, true);
    if (!state_->child.out) state_->child = start_smi(device, reasons, true);
    break;
  }
  if (!state_->child.out) return;
  state_->thread = std::thread([state = state_.get()] {
    char line[1024];
    while (std::fgets(line, sizeof line, state->child.out))
      if (const SmiFacts facts = facts_of(line); !facts.csv.empty()) state->note(facts);
  });
}

Monitor::~Monitor() {
  if (state_->child.pid > 0) kill(state_->child.pid, SIGKILL);  // the child of our own: its pipe ends, and with it the thread
  if (state_->thread.joinable()) state_->thread.join();
  end(state_->child);
}

bool Monitor::watching() const { return state_->child.pid > 0; }

void Monitor::start() {
  const std::lock_guard hold(state_->mutex);
  const SmiFacts latest = state_->seen.latest;
  state_->seen = {};
  state_->seen.latest = latest;
}

Monitor::Seen Monitor::seen() const {
  const std::lock_guard hold(state_->mutex);
  return state_->seen;
}

Monitor::Seen Monitor::seen_at_least_once() {
  if (const Seen out = seen(); out.samples > 0) return out;
  if (const SmiFacts facts = smi_facts(state_->device); !facts.csv.empty()) state_->note(facts);
  return seen();
}

}  // namespace chai::bench
