// Two models again and again in one process: loaded, asked by many sessions at once, some of them stopped half-way, closed. In: seconds.
// Out: the rounds done, and the device's and the process's memory after the first rounds and after the last; an error when either grew or a
// text changed.
#include <unistd.h>

#include <cmath>
#include <fstream>

#include "error.h"
#include "gpu.h"
#include "random_model.h"

namespace chai::bench {
namespace {

double resident_bytes() {
  double size = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident * double(sysconf(_SC_PAGESIZE));
}

double device_bytes_used() {
  uint64_t free_bytes = 0, total = 0;
  cuda::memory_of_device(free_bytes, total);
  return double(total) - double(free_bytes);
}

using Texts = std::vector<std::vector<int32_t>>;

/// Greedy texts of sessions of both plans on both models, which run at the same time.
Texts one_round(const Options& options, const cuda::DeviceFacts& device) {
  Options tiny = options;
  tiny.tiny = true;  // many rounds; two models
  const RandomModel a(tiny, device, 4096), b(tiny, device, 4096);
  const std::vector<NamedPlan> plans = model_plans(a.config());
  std::vector<std::shared_ptr<Session>> sessions;
  for (unsigned i = 0; i < 8; ++i) {
    sessions.push_back((i % 2 ? a : b).engine().open(plans[i / 2 % 2].plan));
    evaluate_seconds(*sessions.back(), random_ids(20 + 9 * int(i), a.config().vocabulary, i));
  }
  Texts texts = drain(sessions, a.config().vocabulary, 12).tokens;
  GenerateOptions more;
  more.max_tokens = 100;
  const auto stopped = sessions[0]->generate(random_ids(1, a.config().vocabulary, 3), more, [] {});
  stopped->stop(0, [] {});
  sessions.resize(5);  // three are dropped without being closed
  close_all(sessions);
  return texts;
}

}  // namespace

void soak(const Options& options, const cuda::DeviceFacts& device) {
  Options untimed = options;
  untimed.seconds = INFINITY;  // its one cell begins when the time is over
  Results results(untimed, "soak");
  const double seconds = options.tiny ? 1 : options.seconds, started = now();
  constexpr int settling = 3;  // rounds after which pools and caches of the driver have their size
  double device_first = 0, resident_first = 0;
  Texts expected;
  int rounds = 0;
  for (; rounds <= settling || now() - started < seconds; ++rounds) {
    const Texts texts = one_round(untimed, device);
    if (rounds == 0) expected = texts;
    if (texts != expected) throw Error(Code::device_fault, "round " + std::to_string(rounds) + " of the soak gave another text");
    if (rounds == settling) device_first = device_bytes_used(), resident_first = resident_bytes();
  }
  const double device_last = device_bytes_used(), resident_last = resident_bytes();
  Record record("soak/" + std::to_string(int64_t(now())));
  record.number("seconds", now() - started).number("rounds", rounds).number("deviceBytesFirst", device_first);
  record.number("deviceBytesLast", device_last).number("residentBytesFirst", resident_first).number("residentBytesLast", resident_last);
  results.wants(record.cell());
  results.note(record);
  if (device_last > device_first + 32e6) throw Error(Code::device_fault, "the device's used memory grew during the soak");
  if (resident_last > resident_first + 64e6) throw Error(Code::device_fault, "the process grew during the soak");
}

}  // namespace chai::bench
