// A fresh measurement beside the committed one; see bench.h.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <set>

#include "bench.h"
#include "standing.h"

namespace chai::bench {
namespace {

struct Cell {
  double us = 0, spread = 0;
};

/// Timed cells by name; of a cell measured twice the later one.
std::map<std::string, Cell> cells_of(const std::string& path) {
  std::map<std::string, Cell> cells;
  for (const std::string& line : lines_of(path)) {
    const double us = std::atof(field_of(line, "us").c_str());
    if (us > 0) cells[field_of(line, "cell")] = {us, std::atof(field_of(line, "spread").c_str())};
  }
  return cells;
}

std::string section_of(const std::string& cell) { return cell.substr(0, cell.find('/')); }

}  // namespace

int compare(const std::string& committed, const std::string& present) {
  const std::map<std::string, Cell> before = cells_of(committed), now = cells_of(present);
  const std::set<std::string> slowed = with_error(present, throttled_error);
  if (before.empty() || (now.empty() && slowed.empty())) {
    std::fprintf(stderr, "%s holds no timed cells to compare\n", (before.empty() ? committed : present).c_str());
    return 2;
  }
  std::set<std::string> ran;
  for (const auto& [name, cell] : now) ran.insert(section_of(name));
  int compared = 0, slower = 0, missing = 0, throttled = 0;
  for (const auto& [name, old] : before) {
    const auto found = now.find(name);
    if (found == now.end() && slowed.count(name)) {
      ++throttled;
      std::printf("throttled, so not compared: %s\n", name.c_str());
      continue;
    }
    if (found == now.end()) {
      if (!ran.count(section_of(name))) continue;
      ++missing;
      std::printf("missing: %s\n", name.c_str());
      continue;
    }
    ++compared;
    const double spread = std::max(found->second.spread, old.spread), loss = found->second.us / old.us - 1;
    if (loss <= 0.05 + spread) continue;
    ++slower;
    std::printf("slower: %s, %.6g us, was %.6g us (+%.1f %%, spread %.1f %%)\n", name.c_str(), found->second.us, old.us, 100 * loss,
                100 * spread);
  }
  std::printf("%d cells compared, %d slower by more than 5 %% beyond the spread, %d missing, %d throttled\n", compared, slower, missing,
              throttled);
  if (slower > 0 || missing > 0) return 1;
  return throttled > 0 ? 4 : compared == 0 ? 2 : 0;
}

}  // namespace chai::bench
