// The native tests' whole framework. In: TEST(name) { CHECK(condition); }. Out: each failure, what was left out, and `N passed, N failed`.
#pragma once
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

namespace chai {

struct TestCase {
  std::string name;
  std::function<void()> body;
};

struct TestRun {
  std::vector<TestCase> cases;
  int failed_checks = 0;
  static TestRun& instance() {
    static TestRun run;
    return run;
  }
  void check(bool held, const char* what, const char* file, int line) {
    if (held) return;
    if (++failed_checks <= 20) std::printf("  %s:%d: CHECK(%s)\n", file, line, what);
  }
};

/// Thrown by a test that cannot run here; it counts as neither passed nor failed.
struct LeftOut {
  std::string why;
};

struct TestRegistration {
  TestRegistration(const char* name, std::function<void()> body) { TestRun::instance().cases.push_back({name, std::move(body)}); }
};

}  // namespace chai

#define TEST(name)                                                         \
  static void test_##name();                                               \
  static const chai::TestRegistration register_##name(#name, test_##name); \
  static void test_##name()
#define CHECK(condition) chai::TestRun::instance().check(bool(condition), #condition, __FILE__, __LINE__)
