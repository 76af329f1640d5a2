// Device memory of sequences, kept for the next one. In: sizes. Out: blocks that go back to the pool with their last owner, on whatever
// thread: giving back never waits for the device, as cudaFree does, and taking again costs no cudaMalloc.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "device_memory.h"

namespace chai::cuda {

/// All work on the blocks runs on one stream, so a block given back while a step still reads it may be taken at once: what is enqueued next
/// comes later.
class BlockPool {
 public:
  /// Not initialised. Throws out_of_memory, after what lies unused was freed.
  Memory take(size_t bytes, const char* what);

 private:
  struct Unused {
    std::mutex mutex;
    std::multimap<size_t, Memory> blocks;  // by size
  };
  static size_t size_class(size_t bytes);
  std::shared_ptr<Unused> unused_ = std::make_shared<Unused>();
};

}  // namespace chai::cuda
