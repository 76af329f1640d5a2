// What Linux's /proc and control groups leave of the memory, in made-up trees of them. Built on Linux only.
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "check.h"
#include "platform/platform.h"

using namespace chai;
using platform::host_memory;

namespace {

/// A made-up root directory with the files that tell about memory.
struct Root {
  std::filesystem::path path = std::filesystem::temp_directory_path() / ("chai-root-" + std::to_string(::getpid()));
  Root() { write("proc/meminfo", "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    800 kB\n"); }
  ~Root() { std::filesystem::remove_all(path); }
  void write(const std::string& file, const std::string& text) {
    std::filesystem::create_directories((path / file).parent_path());
    std::ofstream(path / file) << text;
  }
};

}  // namespace

TEST(cpu_memory_is_what_the_system_and_its_control_groups_leave) {
  Root root;
  CHECK(host_memory(root.path.string()).total == 1000 * 1024);
  CHECK(host_memory(root.path.string()).available == 800 * 1024);
  root.write("proc/self/cgroup", "0::/outer/inner\n");
  root.write("sys/fs/cgroup/outer/inner/memory.max", "max\n");
  root.write("sys/fs/cgroup/outer/memory.max", "500000\n");
  root.write("sys/fs/cgroup/outer/memory.current", "300000\n");
  root.write("sys/fs/cgroup/outer/memory.stat", "anon 1\ninactive_file 50000\n");
  CHECK(host_memory(root.path.string()).available == 250000);
  CHECK(host_memory(root.path.string()).total == 500000);
  root.write("proc/self/cgroup", "5:cpu,memory:/job\n");
  root.write("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "400000\n");
  root.write("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "390000\n");
  CHECK(host_memory(root.path.string()).available == 10000);
  root.write("proc/self/cgroup", "garbage\n0::\n:::\n");
  CHECK(host_memory(root.path.string()).available == 800 * 1024);
}
