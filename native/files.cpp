// Opening model files, and what their errors say; see files.h.
#include "files.h"

#include "error.h"
#include "platform/platform.h"

namespace chai {

std::shared_ptr<File> File::open(const std::string& path) { return platform::open_file(path); }

void fail_open(const std::string& path, const char* why) { throw Error(Code::model_not_found, "cannot open " + path + ": " + why); }

void fail_read(const std::string& path, uint64_t offset, const char* why) {
  throw Error(Code::model_invalid,
              "cannot read " + path + " at byte " + std::to_string(offset) + ": " + why + "; the file may be truncated, download it again");
}

void fail_map(const std::string& path, const char* why) {
  throw Error(Code::out_of_memory, "cannot map " + path + ": " + why + "; load it with mmap: false");
}

}  // namespace chai
