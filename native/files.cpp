// Model files as byte ranges; see files.h.
#include "files.h"

#include <cerrno>
#include <cstring>

#include "error.h"

#ifdef _WIN32
#include <filesystem>
#include <fstream>
#include <mutex>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace chai {
namespace {

[[noreturn]] void fail_open(const std::string& path, const char* why) {
  throw Error(Code::model_not_found, "cannot open " + path + ": " + why);
}

[[noreturn]] void fail_read(const std::string& path, uint64_t offset, const char* why) {
  throw Error(Code::model_invalid,
              "cannot read " + path + " at byte " + std::to_string(offset) + ": " + why + "; the file may be truncated, download it again");
}

#ifdef _WIN32
class StreamFile : public File {
 public:
  explicit StreamFile(const std::string& path) : path_(path) {
    const auto native = std::filesystem::u8path(path);
    std::error_code error;
    size_ = std::filesystem::file_size(native, error);
    stream_.open(native, std::ios::binary);
    if (error || !stream_) fail_open(path, "not found or not readable");
  }
  uint64_t size() const override { return size_; }
  void read(uint64_t offset, size_t bytes, void* to) const override {
    const std::lock_guard hold(mutex_);
    stream_.clear();
    stream_.seekg(std::streamoff(offset));
    if (!stream_.read(static_cast<char*>(to), std::streamsize(bytes))) fail_read(path_, offset, "end of file");
  }
  const void* map() override { throw Error(Code::option_invalid, "mmap is not supported on Windows; leave it off"); }

 private:
  std::string path_;
  uint64_t size_ = 0;
  mutable std::mutex mutex_;
  mutable std::ifstream stream_;
};
using PlatformFile = StreamFile;
#else
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
    if (region == MAP_FAILED)
      throw Error(Code::out_of_memory, "cannot map " + path_ + ": " + std::strerror(errno) + "; load it with mmap: false");
    return mapped_ = region;
  }

 private:
  std::string path_;
  int descriptor_;
  uint64_t size_ = 0;
  void* mapped_ = nullptr;
};
using PlatformFile = PosixFile;
#endif

}  // namespace

std::shared_ptr<File> File::open(const std::string& path) { return std::make_shared<PlatformFile>(path); }

}  // namespace chai
