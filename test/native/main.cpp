// Runs all native tests, or those whose name contains the first argument. Out: exit code 0 passed, 77 all left out, else 1.
#include <chrono>
#include <cstdio>
#include <exception>
#include <string>

#include "check.h"

int main(int count, char** arguments) {
  const std::string filter = count > 1 ? arguments[1] : "";
  auto& run = chai::TestRun::instance();
  int passed = 0, failed = 0, left_out = 0;
  for (const auto& test : run.cases) {
    if (test.name.find(filter) == std::string::npos) continue;
    run.failed_checks = 0;
    const auto start = std::chrono::steady_clock::now();
    try {
      test.body();
    } catch (const chai::LeftOut& left) {
      ++left_out;
      std::printf("left out %s: %s\n", test.name.c_str(), left.why.c_str());
      continue;
    } catch (const std::exception& error) {
      ++run.failed_checks;
      std::printf("  threw: %s\n", error.what());
    }
    const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
    ++(run.failed_checks ? failed : passed);
    if (run.failed_checks || !filter.empty()) std::printf("%s %s (%.0f ms)\n", run.failed_checks ? "FAILED" : "ok", test.name.c_str(), ms);
    std::fflush(stdout);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  if (failed == 0 && passed == 0 && left_out > 0) return 77;
  return failed || passed == 0;
}
