// The K/V cache of one sequence; see kv_cache.h.
#include "kv_cache.h"

#include <algorithm>

namespace chai {

std::shared_ptr<const PlanGeometry> make_geometry(std::shared_ptr<const HeadPlan> plan, const Config& config) {
  auto geometry = std::make_shared<PlanGeometry>();
  for (int layer = 0; layer < config.layers; ++layer) {
    geometry->key_row.push_back(geometry->table_rows);
    geometry->table_rows += plan->key_slots(layer, config);
    geometry->value_row.push_back(geometry->table_rows);
    geometry->table_rows += plan->value_slots(layer, config);
  }
  geometry->warm_blocks = (plan->warmup_end() + page_rows - 1) / page_rows;
  geometry->plan = std::move(plan);
  return geometry;
}

SequenceCache::SequenceCache(std::shared_ptr<const PlanGeometry> geometry, std::shared_ptr<const Config> config,
                             std::shared_ptr<PagePool> pool)
    : geometry_(std::move(geometry)),
      shared_config_(std::move(config)),
      config_(*shared_config_),
      shared_pool_(std::move(pool)),
      pool_(*shared_pool_) {
  warm_.assign(size_t(layers()) * config_.key_value_heads * geometry_->warm_blocks, -1);
  tables_.assign(size_t(layers()) * HeadTable(config_).size(), -1);
  forget_membership();
}

void SequenceCache::forget_membership() {
  resolved_ = geometry_->plan->method != Method::chai;
  tables_dirty_ = warm_dirty_ = true;
  if (!resolved_) return;
  const int size = HeadTable(config_).size();
  for (int layer = 0; layer < layers(); ++layer) write_table(geometry_->plan->layers[layer].heads, config_, &tables_[size_t(layer) * size]);
}

std::unique_ptr<SequenceCache> SequenceCache::fork() const {
  auto other = std::make_unique<SequenceCache>(geometry_, shared_config_, shared_pool_);
  other->resolved_ = resolved_;
  other->pages_ = pages_;
  other->warm_ = warm_;
  other->tables_ = tables_;
  other->features_ = features_;  // cloned by whoever writes first
  other->dirty_to_ = blocks();
  for (const auto* list : {&pages_, &warm_})
    for (const int32_t page : *list)
      if (page >= 0) pool_.retain(page);
  return other;
}

int SequenceCache::key_count(int layer) const {
  if (!resolved_) return geometry_->plan->key_slots(layer, config_);
  return tables_[size_t(layer) * HeadTable(config_).size() + 1];  // kept keys: with grouped queries maybe fewer than reserved
}

/// Calls visit(page reference) for every page that rows [from, to) write into; the blocks of a slot one after the other, so that they get
/// consecutive pages where there are any: what reads a slot then reads a long stretch of memory.
template <class Visit>
void SequenceCache::each_written_page(int from, int to, Visit visit) {
  const int warm_end = resolved_ ? 0 : geometry_->warm_blocks, first = from / page_rows, end = (to + page_rows - 1) / page_rows;
  const int cold = std::clamp(warm_end, first, end);  // the first block without warm-up keys
  for (int layer = 0; layer < layers(); ++layer) {
    for (int head = 0; head < config_.key_value_heads; ++head)
      for (int block = first; block < cold; ++block) visit(warm(layer, head, block));
    for (int slot = 0; slot < key_count(layer); ++slot)
      for (int block = cold; block < end; ++block) visit(page(block, geometry_->key_row[layer] + slot));
    const int values = geometry_->plan->value_slots(layer, config_);
    for (int slot = 0; slot < values; ++slot)
      for (int block = first; block < end; ++block) visit(page(block, geometry_->value_row[layer] + slot));
  }
}

bool SequenceCache::reserve(int from, int to) {
  const int need_blocks = (to + page_rows - 1) / page_rows;
  if (need_blocks > blocks()) pages_.resize(size_t(need_blocks) * geometry_->table_rows, -1);
  int need = 0;
  each_written_page(from, to, [&](int32_t& page) { need += page < 0 || pool_.shared(page); });
  if (need > pool_.free()) return false;
  if (need == 0) return true;
  each_written_page(from, to, [&](int32_t& page) {
    if (page >= 0 && !pool_.shared(page)) return;
    const int32_t fresh = pool_.take();
    if (page >= 0) copies_.push_back({page, fresh});  // our reference to the old page goes on until it is copied
    page = fresh;
  });
  dirty_from_ = std::min(dirty_from_, from / page_rows);
  dirty_to_ = std::max(dirty_to_, need_blocks);
  warm_dirty_ = true;
  return true;
}

void SequenceCache::sync(Backend& backend, const PoolView& pool) {
  for (const auto& copy : copies_) {
    auto* base = static_cast<std::byte*>(pool.base);
    backend.copy(base + copy.to * pool.page_bytes, base + copy.from * pool.page_bytes, pool.page_bytes);
  }
  copied_.insert(copied_.end(), copies_.begin(), copies_.end());
  copies_.clear();
  const int rows = geometry_->table_rows;
  if (blocks() > device_blocks_ || !device_pages_) {
    device_blocks_ = std::max({4, blocks(), 2 * device_blocks_});
    device_pages_ = backend.allocate(size_t(device_blocks_) * rows * sizeof(int32_t), "page table");
    dirty_from_ = 0, dirty_to_ = blocks();
  }
  if (dirty_to_ > dirty_from_)
    backend.upload(static_cast<int32_t*>(device_pages_.get()) + size_t(dirty_from_) * rows, &page(dirty_from_, 0),
                   size_t(dirty_to_ - dirty_from_) * rows * sizeof(int32_t));
  dirty_from_ = blocks(), dirty_to_ = 0;
  if (!device_tables_) device_tables_ = backend.allocate(tables_.size() * sizeof(int32_t), "head tables");
  if (tables_dirty_) backend.upload(device_tables_.get(), tables_.data(), tables_.size() * sizeof(int32_t));
  tables_dirty_ = false;
  if (resolved_) return;
  if (!device_warm_) device_warm_ = backend.allocate(warm_.size() * sizeof(int32_t), "warm-up page table");
  if (warm_dirty_) backend.upload(device_warm_.get(), warm_.data(), warm_.size() * sizeof(int32_t));
  warm_dirty_ = false;
  const size_t feature_bytes = size_t(layers()) * config_.heads * geometry_->plan->feature_length() * sizeof(float);
  if (features_ && features_.use_count() == 1) return;
  Memory own = backend.allocate(feature_bytes, "warm-up features");
  if (features_) backend.copy(own.get(), features_.get(), feature_bytes);
  features_ = std::move(own);
}

void SequenceCache::settle() {
  for (auto& copy : copied_) release(copy.from);
  copied_.clear();
}

void SequenceCache::adopt_tables(Backend& backend) {
  backend.download(tables_.data(), device_tables_.get(), tables_.size() * sizeof(int32_t));
}

void SequenceCache::adopt_pages() {
  resolved_ = true;
  const HeadTable table(config_);
  for (int layer = 0; layer < layers(); ++layer) {
    const int32_t* fields = &tables_[size_t(layer) * table.size()];
    const int row = geometry_->key_row[layer], kept = fields[1];
    for (int slot = 0; slot < geometry_->plan->key_slots(layer, config_); ++slot)
      for (int block = 0; block < blocks(); ++block) {
        if (slot >= kept)
          release(page(block, row + slot));  // reserved, but grouped queries needed fewer
        else if (block < geometry_->warm_blocks)
          std::swap(page(block, row + slot), warm(layer, fields[table.kept_keys() + slot], block));
      }
  }
  for (int32_t& page : warm_) release(page);
  features_.reset();
  device_warm_.reset();
}

void SequenceCache::release(int32_t& page) {
  if (page >= 0) pool_.release(page);
  page = -1;
}

void SequenceCache::truncate(int length) {
  const int keep = (length + page_rows - 1) / page_rows;
  if (keep < blocks()) {
    for (size_t i = size_t(keep) * geometry_->table_rows; i < pages_.size(); ++i) release(pages_[i]);
    pages_.resize(size_t(keep) * geometry_->table_rows);
    dirty_from_ = std::min(dirty_from_, keep);
    dirty_to_ = std::min(dirty_to_, keep);
  }
  if (length > 0) return;
  settle();
  for (auto& copy : copies_) release(copy.from);  // left over only when a sync failed
  copies_.clear();
  for (int32_t& page : warm_) release(page);
  if (geometry_->plan->method == Method::chai) forget_membership();
}

SequenceView SequenceCache::view() const {
  SequenceView view;
  view.geometry = geometry_.get();
  view.tables = static_cast<int32_t*>(device_tables_.get());
  view.block_pages = static_cast<int32_t*>(device_pages_.get());
  view.warm_pages = static_cast<int32_t*>(device_warm_.get());
  view.features = static_cast<float*>(features_.get());
  return view;
}

HeadMap SequenceCache::head_map() const {
  HeadMap map;
  const int size = HeadTable(config_).size();
  for (int layer = 0; layer < layers(); ++layer) map.push_back(read_table(&tables_[size_t(layer) * size], config_));
  return map;
}

CacheUse SequenceCache::use(size_t page_bytes) const {
  uint64_t keys = 0, values = 0, held_blocks = 0;
  for (const int32_t page : warm_) keys += page >= 0;
  for (int block = 0; block < blocks(); ++block) {
    bool held = false;
    for (int layer = 0; layer < layers(); ++layer) {
      for (int row = geometry_->key_row[layer]; row < geometry_->value_row[layer]; ++row) {
        keys += page(block, row) >= 0;
        held |= page(block, row) >= 0;
      }
      const int values_end = layer + 1 < layers() ? geometry_->key_row[layer + 1] : geometry_->table_rows;
      for (int row = geometry_->value_row[layer]; row < values_end; ++row) {
        values += page(block, row) >= 0;
        held |= page(block, row) >= 0;
      }
    }
    held_blocks += held;
  }
  const uint64_t dense = held_blocks * layers() * config_.key_value_heads * page_bytes;
  return {keys * page_bytes, values * page_bytes, dense, dense};
}

}  // namespace chai
