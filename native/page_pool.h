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
  int free() const { return free_; }
  int capacity() const { return int(references_.size()); }
  int used() const { return capacity() - free(); }

 private:
  using Bits = std::vector<uint64_t>;
  std::vector<int32_t> references_;  // [capacity]
  std::vector<Bits> levels_;         // levels_[0]: a bit a free page; above, a bit a word below that has any; the last is one word
  int free_;
};

}  // namespace chai
