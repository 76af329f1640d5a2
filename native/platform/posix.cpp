// Files, pages and signals as POSIX has them; see platform.h.
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "../error.h"
#include "../files.h"
#include "platform.h"

namespace chai::platform {
namespace {

class PosixFile : public File {
 public:
  explicit PosixFile(const std::string& path) : path_(path), descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor_ < 0) fail_open(path, std::strerror(errno));
    struct stat status {};
    const bool regular = ::fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode);
    if (!regular) {
      ::close(descriptor_);
      fail_open(path, "not a regular file");
    }
    size_ = uint64_t(status.st_size);
  }
  ~PosixFile() override {
    if (mapped_) ::munmap(mapped_, size_);
    ::close(descriptor_);
  }
  uint64_t size() const override { return size_; }
  void read(uint64_t offset, size_t bytes, void* to) const override {
    auto* next = static_cast<char*>(to);
    while (bytes > 0) {
      const ssize_t got = ::pread(descriptor_, next, bytes, off_t(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) fail_read(path_, offset, got < 0 ? std::strerror(errno) : "end of file");
      next += got, offset += uint64_t(got), bytes -= size_t(got);
    }
  }
  const void* map() override {
    if (mapped_ || size_ == 0) return mapped_;
    void* region = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor_, 0);
    if (region == MAP_FAILED) fail_map(path_, std::strerror(errno));
    return mapped_ = region;
  }

 private:
  std::string path_;
  int descriptor_;
  uint64_t size_ = 0;
  void* mapped_ = nullptr;
};

}  // namespace

std::shared_ptr<File> open_file(const std::string& path) { return std::make_shared<PosixFile>(path); }

void* open_library(const char* name, std::string& why_not) {
  void* library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL);
  if (library) return library;
  const char* words = ::dlerror();
  why_not = words ? words : "it cannot be opened";
  return nullptr;
}
void* find_function(void* library, const char* name) { return ::dlsym(library, name); }

void unmap_pages(void* at, size_t bytes) { ::munmap(at, bytes); }

WithoutSignals::WithoutSignals() : before_(std::make_shared<sigset_t>()) {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, static_cast<sigset_t*>(before_.get()));
}

WithoutSignals::~WithoutSignals() { pthread_sigmask(SIG_SETMASK, static_cast<sigset_t*>(before_.get()), nullptr); }

}  // namespace chai::platform
