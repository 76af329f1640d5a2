// The K/V cache of one sequence: which head page holds which (layer, slot, block), before and after compaction.
// In: rows about to be written, membership once found. Out: page tables in device memory, bytes held.
// The host mirror is the truth; only sync and adopt_tables touch the device, so the other calls are safe beside a running step of other
// sequences.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "backend.h"
#include "page_pool.h"

namespace chai {

/// K and V slots of every layer, counted from the plan alone.
std::shared_ptr<const PlanGeometry> make_geometry(std::shared_ptr<const HeadPlan> plan, const Config& config);

/// Bytes of pages held, and of the same pages were no head left out.
struct CacheUse {
  uint64_t keys = 0, values = 0, dense_keys = 0, dense_values = 0;
};

class SequenceCache {
 public:
  SequenceCache(std::shared_ptr<const PlanGeometry> geometry, std::shared_ptr<const Config> config, std::shared_ptr<PagePool> pool);
  SequenceCache(const SequenceCache&) = delete;
  SequenceCache& operator=(const SequenceCache&) = delete;
  ~SequenceCache() { clear(); }

  /// Shares every page with the new cache; a shared page is copied when one side writes into it.
  std::unique_ptr<SequenceCache> fork() const;
  /// Pages for rows [from, to), all or none; false when the pool has too few. `sync` must follow before anything else; should that
  /// throw, only clear() is left to call.
  bool reserve(int from, int to);
  /// Before a step: allocates and uploads what changed, and copies pages that stopped being shared. Touches nothing that other sequences
  /// use, so it needs no lock.
  void sync(Backend& backend, const PoolView& pool);
  /// After it: lets go of the pages that were copied.
  void settle();
  /// After the step in which `cluster` ran for every layer: reads the tables (beside other sequences), ...
  void adopt_tables(Backend& backend);
  /// ... then keeps the representatives' warm pages and frees the others.
  void adopt_pages();
  /// Frees the pages of rows >= length. From a clustered state length must be 0 or >= S+W.
  void truncate(int length);
  void clear() { truncate(0); }

  SequenceView view() const;
  /// Whether the head map is known (at once unless the method is chai).
  bool resolved() const { return resolved_; }
  /// The resolved tables; only when resolved().
  HeadMap head_map() const;
  CacheUse use(size_t page_bytes) const;
  /// Device [layers][H][feature_length], as far as tokens have passed; null before the first step and once membership is known.
  Memory features() const { return features_; }
  const PlanGeometry& geometry() const { return *geometry_; }
  std::shared_ptr<const PlanGeometry> shared_geometry() const { return geometry_; }

 private:
  int layers() const { return config_.layers; }
  int key_count(int layer) const;  // K slots that new blocks of a layer need
  int32_t& page(int block, int row) { return pages_[size_t(block) * geometry_->table_rows + row]; }
  int32_t page(int block, int row) const { return pages_[size_t(block) * geometry_->table_rows + row]; }
  int32_t& warm(int layer, int key_head, int block) {
    return warm_[(size_t(layer) * config_.key_value_heads + key_head) * geometry_->warm_blocks + block];
  }
  int blocks() const { return geometry_->table_rows ? int(pages_.size()) / geometry_->table_rows : 0; }
  template <class Visit>
  void each_written_page(int from, int to, Visit visit);
  void release(int32_t& page);
  void forget_membership();

  std::shared_ptr<const PlanGeometry> geometry_;
  std::shared_ptr<const Config> shared_config_;
  const Config& config_;
  std::shared_ptr<PagePool> shared_pool_;
  PagePool& pool_;
  bool resolved_ = false;
  std::vector<int32_t> pages_;   // host mirror [blocks][table_rows], -1 = none
  std::vector<int32_t> warm_;    // host mirror [layers][Hkv][warm_blocks], -1 = none
  std::vector<int32_t> tables_;  // host mirror [layers][HeadTable::size]
  struct PageCopy {
    int32_t from, to;
  };
  std::vector<PageCopy> copies_;  // between reserve and sync: pages to copy; `from` is held until then
  std::vector<PageCopy> copied_;  // between sync and settle: `from` is still held

  Memory device_pages_, device_warm_, device_tables_, features_;
  int device_blocks_ = 0;
  int dirty_from_ = 0, dirty_to_ = 0;  // blocks of pages_ to upload
  bool warm_dirty_ = true, tables_dirty_ = true;
};

}  // namespace chai
