// Reference counts of the head pages of one pool; see page_pool.h.
#include "page_pool.h"

namespace chai {

PagePool::PagePool(int capacity) : references_(capacity, 0), free_(capacity) {
  for (int i = 0; i < capacity; ++i) free_[i] = capacity - 1 - i;
}

int32_t PagePool::take() {
  const int32_t page = free_.back();
  free_.pop_back();
  references_[page] = 1;
  return page;
}

void PagePool::release(int32_t page) {
  if (--references_[page] == 0) free_.push_back(page);
}

}  // namespace chai
