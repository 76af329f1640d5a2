// Reference counts of the head pages of one pool; see page_pool.h.
#include "page_pool.h"

#include <bit>
#include <cstddef>
#include <utility>

namespace chai {
namespace {

constexpr int word = 64;  // bits

}  // namespace

PagePool::PagePool(int capacity) : references_(capacity, 0), free_(capacity) {
  int64_t bits = capacity;
  do {
    Bits level(size_t(bits / word), ~uint64_t{0});
    if (bits % word != 0 || bits == 0) level.push_back((uint64_t{1} << bits % word) - 1);
    bits = int64_t(level.size());
    levels_.push_back(std::move(level));
  } while (levels_.back().size() > 1);
}

int32_t PagePool::take() {
  int64_t at = 0;
  for (size_t level = levels_.size(); level-- > 0;) at = at * word + std::countr_zero(levels_[level][size_t(at)]);
  const auto page = int32_t(at);
  for (Bits& level : levels_) {
    uint64_t& bits = level[size_t(at / word)];
    bits &= bits - 1;  // the lowest
    if (bits != 0) break;
    at /= word;
  }
  references_[page] = 1;
  --free_;
  return page;
}

void PagePool::release(int32_t page) {
  if (--references_[page] > 0) return;
  ++free_;
  int64_t at = page;
  for (Bits& level : levels_) {
    level[size_t(at / word)] |= uint64_t{1} << at % word;
    at /= word;
  }
}

}  // namespace chai
