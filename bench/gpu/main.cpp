// The GPU benchmark: chai_bench SECTION... [--out DIR] [--device N] [--seconds S] [--again] [--tiny], or chai_bench compare COMMITTED
// PRESENT. Out: OUT/SECTION.jsonl, one cell a line; cells that are there are not measured again. Exit: 0 done, 1 failed or slower, 2 usage,
// 3 out of time (run it again to go on), 4 refused because the device was throttled.
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>

#include "bench.h"
#include "error.h"

namespace {

using namespace chai;
using Section = std::function<void(const bench::Options&, const cuda::DeviceFacts&)>;

const std::map<std::string, Section> sections = {{"ceilings", bench::measure_ceilings},
                                                 {"decode", bench::measure_decode},
                                                 {"prefill", bench::measure_prefill},
                                                 {"model", bench::measure_model}};

int usage() {
  std::fprintf(stderr,
               "usage: chai_bench ceilings|decode|prefill|model... [--out DIR] [--device N] [--seconds S] [--again] [--tiny]\n"
               "       chai_bench compare COMMITTED PRESENT\n");
  return 2;
}

int refuse(const std::string& name, const bench::SmiFacts& facts) {
  std::fprintf(stderr, "refused: the device is slowed down by heat or by the board (%s; nvidia-smi: %s); let it cool and run it again\n",
               name.c_str(), facts.csv.c_str());
  return 4;
}

/// One section between two looks at the device. Returns the exit status. What a slowed device measured is put aside as SECTION.throttled.
int run(const std::string& name, const bench::Options& options, const cuda::DeviceFacts& device) {
  const bench::SmiFacts before = bench::smi_facts(options.device);
  if (before.throttled()) return refuse(name, before);
  int status = 0;
  try {
    sections.at(name)(options, device);
  } catch (const bench::OutOfTime&) {
    status = 3;
  }
  const bench::SmiFacts after = bench::smi_facts(options.device);
  bench::Options facts_options = options;
  facts_options.again = false;
  bench::Results facts(facts_options, "facts");
  bench::Record record(name + "/" + std::to_string(int64_t(bench::now())));
  record.text("section", name).text("device", device.name).number("processors", device.processors).number("capability", device.capability);
  record.number("l2Bytes", double(device.l2_bytes)).raw("before", before.json()).raw("after", after.json());
  facts.add(record);
  if (after.throttled()) {
    const std::string path = options.out + "/" + name;
    std::rename((path + ".jsonl").c_str(), (path + ".throttled").c_str());
    return refuse(name, after);
  }
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
    else if (word == "--out" && more)
      options.out = arguments[++i];
    else if (word == "--device" && more)
      options.device = std::atoi(arguments[++i]);
    else if (word == "--seconds" && more)
      options.seconds = std::atof(arguments[++i]);
    else if (word.rfind("--", 0) == 0)
      return usage();
    else
      names.push_back(word);
  }
  if (names.size() == 3 && names[0] == "compare") return bench::compare(names[1], names[2]);
  if (names.empty()) return usage();
  for (const std::string& name : names)
    if (!sections.count(name)) return usage();
  try {
    std::string why_none;
    const auto devices = cuda::find_devices(why_none);
    if (options.device < 0 || options.device >= int(devices.size()) || !devices[size_t(options.device)].reason.empty()) {
      std::fprintf(stderr, "no usable CUDA device %d: %s\n", options.device, devices.empty() ? why_none.c_str() : "see nvidia-smi");
      return 1;
    }
    cuda::use_device(options.device);
    for (const std::string& name : names)
      if (const int status = run(name, options, devices[size_t(options.device)])) return status;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "failed: %s\n", error.what());
    return 1;
  }
  return 0;
}
