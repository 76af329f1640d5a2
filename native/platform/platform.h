// Everything the engine asks of the operating system, in one place: memory, processor, threads, files. One source file a system implements
// it (linux.cpp and darwin.cpp over posix.cpp, windows.cpp); CMake picks, so that no other file asks which system this is.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace chai {
class File;
}

namespace chai::platform {

struct HostMemory {
  uint64_t total = 0, available = 0;  // bytes
};

/// What this process may use: the least of what the machine has and what limits on the process (control groups) leave. Linux: `root` stands
/// before every path read (tests pass a made-up tree).
HostMemory host_memory(const std::string& root = "");

/// Zero-filled pages, or null when the system refuses. `lazy`: address space whose pages are taken when first written, where the system
/// can.
void* map_pages(size_t bytes, bool lazy);
void unmap_pages(void* at, size_t bytes);

/// Physical cores that this process may use (affinity and quota counted), at least 1.
int physical_cores();

/// As the maker calls it; "CPU" where that is not to be had.
std::string processor_name();

/// While it lives, threads that the calling thread starts receive no signals: those are for the host's own threads.
class WithoutSignals {
 public:
  WithoutSignals();
  ~WithoutSignals();
  WithoutSignals(const WithoutSignals&) = delete;
  WithoutSignals& operator=(const WithoutSignals&) = delete;

 private:
  std::shared_ptr<void> before_;
};

/// A library of the machine's by its file name, looked for where the system looks. It stays open until the process ends. Null where there
/// is none, and `why_not` is what the system says.
void* open_library(const char* name, std::string& why_not);
/// Null where the library has no such function.
void* find_function(void* library, const char* name);

/// A regular file for reading; `path` is UTF-8. Throws model_not_found.
std::shared_ptr<File> open_file(const std::string& path);

}  // namespace chai::platform
