// What the environment says about the emulated device; see settings.h.
#include "settings.h"

#include <cstdlib>

namespace ptx {
namespace {

uint64_t number_of(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text && *text ? std::strtoull(text, nullptr, 10) : otherwise;
}

Settings read() {
  Settings s;
  s.capability = int(number_of("PTX_CAPABILITY", 90));
  if (s.capability < 90) s.processors = 108, s.most_shared = 166912, s.processor_shared = 167936;
  s.processors = int(number_of("PTX_PROCESSORS", uint64_t(s.processors)));
  s.late = number_of("PTX_LATE", 1) != 0;
  s.early = number_of("PTX_EARLY", 1) != 0;
  s.early_blocks = number_of("PTX_EARLY_BLOCKS", 64);
  s.schedule.seed = unsigned(number_of("PTX_SEED", 0));
  s.schedule.late_copies = number_of("PTX_LATE_COPIES", 1) != 0;
  s.schedule.check_hazards = number_of("PTX_HAZARDS", 0) != 0;
  if (const char* part = std::getenv("PTX_BLOCKS_OF")) s.blocks_of = part;
  s.schedule.most_blocks = number_of("PTX_BLOCKS", 0);
  if (const char* report = std::getenv("PTX_REPORT")) s.report = report;
  if (const char* counts = std::getenv("PTX_COUNT")) s.counts = counts;
  return s;
}

}  // namespace

const Settings& settings() {
  static const Settings& all = *new Settings(read());  // what ends after main() reads it, too
  return all;
}

}  // namespace ptx
