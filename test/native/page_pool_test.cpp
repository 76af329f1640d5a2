// Reference counts of the page pool, and the order in which it hands out pages.
#include "page_pool.h"

#include <algorithm>
#include <random>
#include <set>

#include "check.h"

namespace chai {

TEST(pages_are_distinct_counted_and_come_back) {
  PagePool pool(5);
  std::set<int32_t> seen;
  for (int i = 0; i < 5; ++i) seen.insert(pool.take());
  CHECK(seen.size() == 5 && *seen.begin() == 0 && *seen.rbegin() == 4);
  CHECK(pool.free() == 0 && pool.used() == 5);
  pool.retain(3);
  CHECK(pool.shared(3));
  pool.release(3);
  CHECK(!pool.shared(3) && pool.free() == 0);
  pool.release(3);
  CHECK(pool.free() == 1 && pool.take() == 3);
}

TEST(pages_are_taken_from_the_lowest_on) {
  std::mt19937 random(3);
  for (const int capacity : {0, 1, 63, 64, 65, 4095, 4096, 4097, 300000}) {
    PagePool pool(capacity);
    std::set<int32_t> free;
    for (int i = 0; i < capacity; ++i) free.insert(free.end(), i);
    std::vector<int32_t> taken;
    for (int round = 0; round < 6; ++round) {
      const size_t until = round % 2 == 0 ? 0 : free.size() / 2;  // now and then all of them
      while (free.size() > until) {
        taken.push_back(pool.take());
        CHECK(taken.back() == *free.begin());
        free.erase(free.begin());
      }
      std::shuffle(taken.begin(), taken.end(), random);
      for (size_t back = taken.size() / 3 + 1; back > 0 && !taken.empty(); --back) {
        pool.release(taken.back());
        free.insert(taken.back());
        taken.pop_back();
      }
      CHECK(pool.free() == int(free.size()) && pool.used() == int(taken.size()));
    }
  }
}

}  // namespace chai
