// Model files as byte ranges. In: a path. Out: bytes at an offset, or a mapping. native/platform implements them.
#pragma once
#include <cstdint>
#include <memory>
#include <string>

namespace chai {

class File {
 public:
  virtual ~File() = default;
  virtual uint64_t size() const = 0;
  /// Exactly `bytes` bytes from `offset`; throws model_invalid naming the file when it ends before that.
  virtual void read(uint64_t offset, size_t bytes, void* to) const = 0;
  /// The whole file, mapped read-only; lives as long as this object.
  virtual const void* map() = 0;
  /// Throws model_not_found.
  static std::shared_ptr<File> open(const std::string& path);
};

// The errors of every implementation.
[[noreturn]] void fail_open(const std::string& path, const char* why);
[[noreturn]] void fail_read(const std::string& path, uint64_t offset, const char* why);
[[noreturn]] void fail_map(const std::string& path, const char* why);

}  // namespace chai
