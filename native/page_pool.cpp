// Reference counts of the head pages of one pool; see page_pool.h.
#include "page_pool.h"

#include <algorithm>
#include <functional>
#include <numeric>

namespace chai {

PagePool::PagePool(int capacity) : references_(capacity, 0), free_(capacity) {
  std::iota(free_.begin(), free_.end(), 0);  // sorted, so a heap
}

int32_t PagePool::take() {
  std::ranges::pop_heap(free_, std::greater<>());
  const int32_t page = free_.back();
  free_.pop_back();
  references_[page] = 1;
  return page;
}

void PagePool::release(int32_t page) {
  if (--references_[page] > 0) return;
  free_.push_back(page);
  std::ranges::push_heap(free_, std::greater<>());
}

}  // namespace chai
