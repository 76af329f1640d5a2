// Reference counts of the page pool.
#include "page_pool.h"

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

}  // namespace chai
