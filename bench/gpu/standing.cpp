// Lines of a section's file, cell by cell; see standing.h.
#include "standing.h"

#include "bench.h"

namespace chai::bench {

std::map<std::string, Standing> standings(const std::string& path) {
  std::map<std::string, Standing> out;
  std::map<std::string, int> failures;
  for (const std::string& line : lines_of(path)) {
    const std::string cell = field_of(line, "cell"), error = field_of(line, "error");
    if (error.empty() && field_of(line, "fits") != "false") {
      out[cell] = Standing::measured;
      continue;
    }
    const bool final = field_of(line, "final") == "true" || error == broken_off || error.starts_with(not_done);
    out[cell] = final || ++failures[cell] > 1 ? Standing::failed : Standing::failed_once;
  }
  return out;
}

std::set<std::string> failed_once(const std::string& path) {
  std::set<std::string> out;
  for (const auto& [cell, standing] : standings(path))
    if (standing == Standing::failed_once) out.insert(cell);
  return out;
}

std::set<std::string> with_error(const std::string& path, std::string_view error) {
  std::map<std::string, std::string> last;
  for (const std::string& line : lines_of(path)) last[field_of(line, "cell")] = field_of(line, "error");
  std::set<std::string> out;
  for (const auto& [cell, said] : last)
    if (said == error) out.insert(cell);
  return out;
}

}  // namespace chai::bench
