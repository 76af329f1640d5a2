// Reference counts of the head pages of one pool: bookkeeping on integers, no memory. In: takes and releases. Out: page ids and counts.
#pragma once
#include <cstdint>
#include <vector>

namespace chai {

class PagePool {
 public:
  explicit PagePool(int capacity);
  /// The lowest free page, with one reference: what is taken together lies together. There must be one: ask free() first.
  int32_t take();
  void retain(int32_t page) { ++references_[page]; }
  void release(int32_t page);
  bool shared(int32_t page) const { return references_[page] > 1; }
  int free() const { return int(free_.size()); }
  int capacity() const { return int(references_.size()); }
  int used() const { return capacity() - free(); }

 private:
  std::vector<int32_t> references_;  // [capacity]
  std::vector<int32_t> free_;        // heap of free ids, the lowest in front
};

}  // namespace chai
