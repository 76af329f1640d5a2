// The GPU benchmark: chai_bench SECTION... [options], compare COMMITTED PRESENT (compare.cpp), logits FILE (logits.cpp). Out:
// OUT/SECTION.jsonl, one cell a line; cells that are there are not measured again, those that failed once more in a later call. Exit: 0
// done, 1 failed, slower or a wrong output, 2 usage, 3 run it again to go on (time was up, or cells failed that are tried once more), 4
// refused: throttled, 5 a cell hung (that is noted; run it again to go on with the others).
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <iterator>
#include <map>
#include <set>
#include <thread>

#include "bench.h"
#include "error.h"
#include "standing.h"

namespace {

using namespace chai;
using Section = std::function<void(const bench::Options&, const cuda::DeviceFacts&)>;

const std::map<std::string, Section> sections = {
    {"ceilings", bench::measure_ceilings}, {"decode", bench::measure_decode}, {"prefill", bench::measure_prefill},
    {"products", bench::measure_products}, {"draws", bench::measure_draws},   {"model", bench::measure_model},
    {"first", bench::measure_first},       {"memory", bench::measure_memory}, {"soak", bench::soak}};

int usage() {
  std::fprintf(stderr,
               "usage: chai_bench ceilings|decode|prefill|products|draws|model|first|memory|soak... [options]\n"
               "       chai_bench compare COMMITTED PRESENT\n"
               "       chai_bench logits FILE\n"
               "  --out DIR      where results lie (build_gpu/results)    --device N   CUDA device (0)\n"
               "  --seconds S    of each section, then exit 3 (420)       --only TEXT  cells whose name contains it\n"
               "  --again        measure what is there already            --tiny       shapes for the host shim\n"
               "  --cell-seconds S   of one cell, which then counts as hung (60; 180 with a whole model)\n"
               "  --sm90         prefill by kernels for Hopper            --own        the whole model without cuBLAS\n");
  return 2;
}

int refuse(const std::string& name, const std::string& what) {
  std::fprintf(stderr, "%s refused: the device is slowed down by heat or by the board (%s); let it cool and run it again\n", name.c_str(),
               what.c_str());
  return 4;
}

/// The section's cells, all or those to be tried once more. What was measured before a failure stays.
int measure(const std::string& name, const bench::Options& options, const cuda::DeviceFacts& device) {
  try {
    sections.at(name)(options, device);
  } catch (const bench::OutOfTime&) {
    return 3;
  } catch (const bench::Throttled& throttled) {
    return refuse(name, throttled.what);
  } catch (const Error& error) {  // what was measured and the device's facts are worth keeping
    std::fprintf(stderr, "%s failed: %s\n", name.c_str(), error.what());
    return 1;
  }
  return 0;
}

std::set<std::string> both(const std::set<std::string>& a, const std::set<std::string>& b) {
  std::set<std::string> out;
  std::ranges::set_intersection(a, b, std::inserter(out, out.end()));
  return out;
}

/// New cells first, then those that failed in an earlier call.
int measure_all(const std::string& name, bench::Options options, const cuda::DeviceFacts& device) {
  const std::string path = options.out + "/" + name + ".jsonl";
  const std::set<std::string> failed = options.again ? std::set<std::string>{} : bench::failed_once(path);
  std::set<std::string> asked;
  options.asked = &asked;
  const double started = bench::now();
  int status = measure(name, options, device);
  options.retry = both(failed, asked), options.seconds -= bench::now() - started;
  if (status == 0 && !options.retry.empty()) status = measure(name, options, device);
  if (status != 0) return status;
  const std::set<std::string> wrong = both(bench::with_error(path, bench::wrong_output), asked),
                              open = both(bench::failed_once(path), asked);
  for (const std::string& cell : wrong) std::fprintf(stderr, "%s: the output is wrong\n", cell.c_str());
  if (!wrong.empty()) return 1;
  if (!open.empty()) std::fprintf(stderr, "%zu cells of %s failed and are tried once more in the next call\n", open.size(), name.c_str());
  return open.empty() ? 0 : 3;
}

/// One section, and what the device says of itself before and after.
int run(const std::string& name, bench::Options options, const cuda::DeviceFacts& device) {
  bench::Monitor monitor(options.device);
  options.monitor = &monitor;
  bench::SmiFacts before = monitor.seen().latest;
  for (int tries = 1; before.throttled() && tries < 4; ++tries) {  // by the section before it, perhaps
    std::this_thread::sleep_for(std::chrono::seconds(5));
    before = bench::smi_facts(options.device);
  }
  if (before.throttled()) return refuse(name, before.csv);
  if (!monitor.watching()) std::fprintf(stderr, "no nvidia-smi: cells are marked \"unwatched\"\n");
  const int status = measure_all(name, options, device);
  const bench::SmiFacts after = monitor.seen().latest;
  bench::Options facts_options = options;
  facts_options.again = false, facts_options.only.clear(), facts_options.monitor = nullptr;
  bench::Results facts(facts_options, "facts");
  bench::Record record("facts/" + name + "/" + std::to_string(int64_t(std::time(nullptr))));
  record.text("section", name).text("device", device.name).number("processors", device.processors).number("capability", device.capability);
  record.number("l2Bytes", double(device.l2_bytes)).number("totalBytes", double(device.total_bytes)).number("status", status);
  record.raw("before", before.json()).raw("after", after.json());
  facts.add(record);
  return status;
}

}  // namespace

int main(int count, char** arguments) {
  bench::Options options;
  std::vector<std::string> names;
  for (int i = 1; i < count; ++i) {
    const std::string word = arguments[i];
    const bool more = i + 1 < count;
    if (word == "--again")
      options.again = true;
    else if (word == "--tiny")
      options.tiny = true;
    else if (word == "--sm90")
      options.sm90 = true;
    else if (word == "--own")
      options.own = true;
    else if (word == "--out" && more)
      options.out = arguments[++i];
    else if (word == "--only" && more)
      options.only = arguments[++i];
    else if (word == "--device" && more)
      options.device = std::atoi(arguments[++i]);
    else if (word == "--seconds" && more)
      options.seconds = std::atof(arguments[++i]);
    else if (word == "--cell-seconds" && more)
      options.cell_seconds = std::atof(arguments[++i]);
    else if (word.rfind("--", 0) == 0)
      return usage();
    else
      names.push_back(word);
  }
  if (names.size() == 3 && names[0] == "compare") return bench::compare(names[1], names[2]);
  if (names.empty()) return usage();
  const bool logits = names.size() == 2 && names[0] == "logits";
  for (const std::string& name : names)
    if (!logits && !sections.count(name)) return usage();
  try {
    std::string why_none;
    cuda::DeviceFacts device;
    if (const int count = cuda::count_devices(device.reason); options.device >= 0 && options.device < count)
      device = cuda::open_device(options.device);
    else if (count > 0)
      device.reason = "there are " + std::to_string(count);
    if (!device.reason.empty()) {
      std::fprintf(stderr, "no usable CUDA device %d: %s\n", options.device, device.reason.c_str());
      return 1;
    }
    cuda::use_device(options.device);
    if (logits) return bench::write_logits(names[1], device);
    for (const std::string& name : names)
      if (const int status = run(name, options, device)) return status;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "failed: %s\n", error.what());
    return 1;
  }
  return 0;
}
