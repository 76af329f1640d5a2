// Files, memory and processor as Windows has them; see platform.h.
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "../error.h"
#include "../files.h"
#include "platform.h"

namespace chai::platform {
namespace {

std::wstring wide(const std::string& text) {
  const int size = MultiByteToWideChar(CP_UTF8, 0, text.data(), int(text.size()), nullptr, 0);
  std::wstring out(size_t(std::max(0, size)), L'\0');
  MultiByteToWideChar(CP_UTF8, 0, text.data(), int(text.size()), out.data(), size);
  return out;
}

std::string last_error() { return "Windows error " + std::to_string(GetLastError()); }

class WindowsFile : public File {
 public:
  explicit WindowsFile(const std::string& path)
      : path_(path),
        handle_(CreateFileW(wide(path).c_str(), GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, nullptr, OPEN_EXISTING, 0, nullptr)) {
    if (handle_ == INVALID_HANDLE_VALUE) fail_open(path, last_error().c_str());
    LARGE_INTEGER size{};
    if (GetFileType(handle_) != FILE_TYPE_DISK || !GetFileSizeEx(handle_, &size)) {
      CloseHandle(handle_);
      fail_open(path, "not a regular file");
    }
    size_ = uint64_t(size.QuadPart);
  }
  ~WindowsFile() override {
    if (mapped_) UnmapViewOfFile(mapped_);
    CloseHandle(handle_);
  }
  uint64_t size() const override { return size_; }
  void read(uint64_t offset, size_t bytes, void* to) const override {
    auto* next = static_cast<char*>(to);
    while (bytes > 0) {
      OVERLAPPED at{};  // the place to read from, so threads share one handle
      at.Offset = DWORD(offset), at.OffsetHigh = DWORD(offset >> 32);
      DWORD got = 0;
      const DWORD most = DWORD(std::min<size_t>(bytes, size_t{1} << 30));
      if (!ReadFile(handle_, next, most, &got, &at) && GetLastError() != ERROR_HANDLE_EOF) fail_read(path_, offset, last_error().c_str());
      if (got == 0) fail_read(path_, offset, "end of file");
      next += got, offset += got, bytes -= got;
    }
  }
  const void* map() override {
    if (mapped_ || size_ == 0) return mapped_;
    const HANDLE mapping = CreateFileMappingW(handle_, nullptr, PAGE_READONLY, 0, 0, nullptr);
    if (mapping) mapped_ = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0);
    const std::string why = last_error();
    if (mapping) CloseHandle(mapping);  // the view keeps it
    if (!mapped_) fail_map(path_, why.c_str());
    return mapped_;
  }

 private:
  std::string path_;
  HANDLE handle_;
  uint64_t size_ = 0;
  void* mapped_ = nullptr;
};

}  // namespace

void* open_library(const char* name, std::string& why_not) {
  HMODULE library = LoadLibraryW(wide(name).c_str());
  if (!library) why_not = last_error();
  return library;
}
void* find_function(void* library, const char* name) {
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), name));
}

std::shared_ptr<File> open_file(const std::string& path) { return std::make_shared<WindowsFile>(path); }

/// What is left of the physical memory, of the commit limit and of the limit of this process's job.
HostMemory host_memory(const std::string&) {
  HostMemory memory;
  MEMORYSTATUSEX status{};
  status.dwLength = sizeof(status);
  if (GlobalMemoryStatusEx(&status)) {
    memory.total = status.ullTotalPhys;
    memory.available = std::min(status.ullAvailPhys, status.ullAvailPageFile);
  }
  JOBOBJECT_EXTENDED_LIMIT_INFORMATION job{};
  if (QueryInformationJobObject(nullptr, JobObjectExtendedLimitInformation, &job, sizeof(job), nullptr) &&
      (job.BasicLimitInformation.LimitFlags & JOB_OBJECT_LIMIT_JOB_MEMORY)) {
    memory.total = std::min<uint64_t>(memory.total, job.JobMemoryLimit);
    memory.available = std::min<uint64_t>(memory.available, job.JobMemoryLimit);
  }
  return memory;
}

/// Committed at once, which takes from the commit limit but no memory: pages are taken when first written.
void* map_pages(size_t bytes, bool) { return VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE); }

void unmap_pages(void* at, size_t) { VirtualFree(at, 0, MEM_RELEASE); }

int physical_cores() {
  DWORD bytes = 0;
  GetLogicalProcessorInformationEx(RelationProcessorCore, nullptr, &bytes);
  std::vector<char> list(bytes);
  auto* first = reinterpret_cast<SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX*>(list.data());
  int cores = 0;
  if (bytes > 0 && GetLogicalProcessorInformationEx(RelationProcessorCore, first, &bytes))
    for (DWORD at = 0; at < bytes; ++cores) at += reinterpret_cast<SYSTEM_LOGICAL_PROCESSOR_INFORMATION_EX*>(list.data() + at)->Size;
  DWORD_PTR process = 0, system = 0;
  int allowed = 1 << 20;  // logical processors that the affinity leaves; 0 means several groups, no limit
  if (GetProcessAffinityMask(GetCurrentProcess(), &process, &system) && process != 0) {
    allowed = 0;
    for (; process != 0; process &= process - 1) ++allowed;
  }
  if (cores == 0) cores = int(std::thread::hardware_concurrency());
  return std::max(1, std::min(cores, allowed));
}

std::string processor_name() {
  char name[256] = {};
  DWORD size = sizeof(name) - 1;
  const auto found = RegGetValueA(HKEY_LOCAL_MACHINE, "HARDWARE\\DESCRIPTION\\System\\CentralProcessor\\0", "ProcessorNameString",
                                  RRF_RT_REG_SZ, nullptr, name, &size);
  return found == ERROR_SUCCESS ? name : "CPU";
}

// Windows has no signals to keep from threads.
WithoutSignals::WithoutSignals() = default;
WithoutSignals::~WithoutSignals() = default;

}  // namespace chai::platform
