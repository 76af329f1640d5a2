// Device memory of sequences, kept for the next one; see block_pool.h.
#include "block_pool.h"

#include <algorithm>
#include <bit>
#include <new>

#include "error.h"

namespace chai::cuda {

/// Eight classes between two powers of two: at most an eighth of a block is wasted.
size_t BlockPool::size_class(size_t bytes) {
  const size_t step = std::max<size_t>(256, std::bit_ceil(std::max<size_t>(bytes, 1)) / 16);
  return (std::max<size_t>(bytes, 1) + step - 1) / step * step;
}

Memory BlockPool::take(size_t bytes, const char* what) {
  const size_t size = size_class(bytes);
  Memory block;
  {
    const std::lock_guard hold(unused_->mutex);
    if (const auto found = unused_->blocks.find(size); found != unused_->blocks.end()) {
      block = std::move(found->second);
      unused_->blocks.erase(found);
    }
  }
  if (!block) {
    try {
      block = allocate_shared(size, what);
    } catch (const Error& error) {
      if (error.code != Code::out_of_memory) throw;
      std::multimap<size_t, Memory> blocks;  // freed outside the lock
      {
        const std::lock_guard hold(unused_->mutex);
        blocks.swap(unused_->blocks);
      }
      if (blocks.empty()) throw;
      blocks.clear();
      block = allocate_shared(size, what);
    }
  }
  void* const memory = block.get();
  return Memory(memory, [block = std::move(block), size, pool = std::weak_ptr(unused_)](void*) mutable {
    const auto unused = pool.lock();
    if (!unused) return;  // the backend is gone: freed with this deleter
    try {
      const std::lock_guard hold(unused->mutex);
      unused->blocks.emplace(size, block);
    } catch (const std::bad_alloc&) {  // likewise
    }
    block.reset();
  });
}

}  // namespace chai::cuda
