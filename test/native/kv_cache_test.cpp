// The paged K/V cache against a host-memory stand-in for a device: pages held, compaction, copy on write, roll-back, nothing leaked.
#include "kv_cache.h"

#include <cstring>
#include <set>

#include "check.h"
#include "head_plan.h"

namespace chai {
namespace {

/// Memory operations on the host; every step operation is out of reach of these tests.
class HostMemory : public Backend {
 public:
  std::string describe() const override { return "host memory"; }
  DeviceMemory memory() const override { return {}; }
  Memory allocate(size_t bytes, const char*) override {
    return Memory(new char[bytes](), [](void* p) { delete[] static_cast<char*>(p); });
  }
  Memory reserve(size_t bytes, const char* what) override { return allocate(bytes, what); }
  Rows allocate_rows(int, int, const char*) override { return {}; }
  void upload(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void download(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  void copy(void* to, const void* from, size_t bytes) override { std::memcpy(to, from, bytes); }
  MatrixRef prepare(const TensorSource&) override { return nullptr; }
  void download_logits(const Rows&, int, int, float*) override {}
  void plan(const Config&, int, int) override {}
  void begin(const Step&) override {}
  void embed(const Step&, const ModelWeights&, Rows&) override {}
  void qkv(const Step&, Phase, int, const LayerWeights&, const Rows&, Rows&) override {}
  void cluster(const Step&, int, const Rows&) override {}
  void attend(const Step&, int, std::span<const Rows>, Rows&) override {}
  void output(const Step&, const LayerWeights&, const Rows&, Rows&) override {}
  void feed_forward(const Step&, const LayerWeights&, Rows&) override {}
  void logits(const Step&, const ModelWeights&, const Rows&, Rows&) override {}
  void sample(const Step&, const Rows&) override {}
  void finish(Step&) override {}
};

struct Bench {
  std::shared_ptr<Config> config = std::make_shared<Config>();
  std::shared_ptr<PagePool> pool;
  HostMemory backend;
  std::vector<char> bytes;
  PoolView view;

  explicit Bench(int pages = 4000, int heads = 8, int key_value_heads = 8) : pool(std::make_shared<PagePool>(pages)) {
    config->layers = 3, config->heads = heads, config->key_value_heads = key_value_heads, config->head_dim = 2;
    config->hidden = config->embedding = 2 * heads, config->intermediate = 4, config->vocabulary = 10, config->context = 1024;
    config->attention_scale = 1;
    view.row_bytes = 8, view.page_bytes = view.row_bytes * page_rows;
    bytes.resize(view.page_bytes * pages);
    view.base = bytes.data();
  }
  std::unique_ptr<SequenceCache> cache(HeadPlan plan) {
    check(plan, *config);
    return std::make_unique<SequenceCache>(make_geometry(std::make_shared<const HeadPlan>(std::move(plan)), *config), config, pool);
  }
  HeadPlan chai(std::vector<int> clusters, int start = 0, int tokens = 5) {
    HeadPlan plan;
    plan.method = Method::chai, plan.warmup_start = start, plan.warmup_tokens = tokens;
    for (const int k : clusters) {
      PlanLayer layer;
      layer.rule.clusters = k;
      plan.layers.push_back(layer);
    }
    return plan;
  }
  void write(SequenceCache& cache, int from, int to) {
    CHECK(cache.reserve(from, to));
    cache.sync(backend, view);
    cache.settle();
  }
  /// What a backend's cluster step does: writes tables and hands the representatives' warm pages over.
  void cluster(SequenceCache& cache, const std::vector<Membership>& memberships) {
    const SequenceView v = cache.view();
    const HeadTable table(*config);
    for (int layer = 0; layer < config->layers; ++layer) {
      const LayerHeads heads = clustered_heads(*config, layer, memberships[layer]);
      write_table(heads, *config, v.tables + size_t(layer) * table.size());
      for (int slot = 0; slot < int(heads.kept_keys.size()); ++slot)
        for (int block = 0; block < v.geometry->warm_blocks; ++block)
          v.block_pages[block * v.geometry->table_rows + v.geometry->key_row[layer] + slot] =
              v.warm_pages[(layer * config->key_value_heads + heads.kept_keys[slot]) * v.geometry->warm_blocks + block];
    }
    cache.adopt_tables(backend);
    cache.adopt_pages();
  }
};

Membership first_k(int heads, int k) {
  Membership m;
  for (int h = 0; h < heads; ++h) m.cluster_of.push_back(std::min(h, k - 1));
  for (int c = 0; c < k; ++c) m.representatives.push_back(c);
  return m;
}

}  // namespace

TEST(dense_cache_holds_one_page_a_head_and_block) {
  Bench bench;
  auto cache = bench.cache(dense_plan(*bench.config));
  CHECK(cache->resolved());
  bench.write(*cache, 0, 64);
  CHECK(bench.pool->used() == 3 * 16);
  bench.write(*cache, 64, 65);
  CHECK(bench.pool->used() == 2 * 3 * 16);
  const CacheUse use = cache->use(bench.view.page_bytes);
  CHECK(use.keys == use.values && use.keys == use.dense_keys && use.keys == 2 * 3 * 8 * bench.view.page_bytes);
  cache->truncate(64);
  CHECK(bench.pool->used() == 3 * 16);
  cache.reset();
  CHECK(bench.pool->used() == 0);
}

TEST(compaction_keeps_only_representatives_keys) {
  Bench bench;
  auto cache = bench.cache(bench.chai({1, 4, 8}));
  CHECK(!cache->resolved());
  bench.write(*cache, 0, 3);
  CHECK(bench.pool->used() == 3 * 16);  // warm-up: every key head
  bench.write(*cache, 3, 100);          // the warm-up ends inside this step
  bench.cluster(*cache, {first_k(8, 1), first_k(8, 4), first_k(8, 8)});
  const CacheUse use = cache->use(bench.view.page_bytes);
  CHECK(use.keys == 2 * 13 * bench.view.page_bytes);
  CHECK(use.dense_keys == 2 * 24 * bench.view.page_bytes);
  CHECK(use.values == use.dense_values);
  CHECK(bench.pool->used() == 2 * (13 + 24));
  bench.write(*cache, 100, 300);
  CHECK(bench.pool->used() == 5 * (13 + 24));
  cache->truncate(5);
  CHECK(bench.pool->used() == 13 + 24);
  cache->truncate(0);
  CHECK(bench.pool->used() == 0 && !cache->resolved());
}

TEST(grouped_queries_give_reserved_slots_back) {
  Bench bench(4000, 8, 4);
  auto cache = bench.cache(bench.chai({3, 8, 2}));
  bench.write(*cache, 0, 130);
  Membership same_key;  // representatives 0 and 1 share key head 0, 6 uses key head 3
  same_key.cluster_of = {0, 1, 0, 1, 0, 1, 2, 2}, same_key.representatives = {0, 1, 6};
  bench.cluster(*cache, {same_key, first_k(8, 8), first_k(8, 2)});
  const HeadMap map = cache->head_map();
  CHECK(map[0].kept_keys == (std::vector<int>{0, 3}));
  CHECK(cache->use(bench.view.page_bytes).keys == 3 * (2 + 4 + 1) * bench.view.page_bytes);
  CHECK(bench.pool->used() == 3 * (2 + 4 + 1 + 12));
}

TEST(forks_share_pages_until_one_side_writes) {
  Bench bench;
  auto parent = bench.cache(bench.chai({2, 2, 2}));
  bench.write(*parent, 0, 70);
  bench.cluster(*parent, {first_k(8, 2), first_k(8, 2), first_k(8, 2)});
  const int before = bench.pool->used(), block = 3 * 10;
  CHECK(before == 2 * block);
  // mark the pages' first bytes with their ids
  for (int page = 0; page < bench.pool->capacity(); ++page)
    std::memcpy(bench.bytes.data() + page * bench.view.page_bytes, &page, sizeof page);
  auto child = parent->fork();
  CHECK(bench.pool->used() == before);
  CHECK(child->head_map() == parent->head_map());
  bench.write(*child, 70, 71);  // block 1 only is copied
  CHECK(bench.pool->used() == before + block);
  parent->sync(bench.backend, bench.view);
  parent->settle();
  const int rows = parent->geometry().table_rows;
  for (int row = 0; row < rows; ++row) {
    const int32_t old_page = parent->view().block_pages[rows + row], new_page = child->view().block_pages[rows + row];
    CHECK(parent->view().block_pages[row] == child->view().block_pages[row]);
    CHECK(old_page != new_page);
    int32_t copied;
    std::memcpy(&copied, bench.bytes.data() + new_page * bench.view.page_bytes, sizeof copied);
    CHECK(copied == old_page);
  }
  bench.write(*parent, 70, 71);  // the sole owner now: nothing to copy
  CHECK(bench.pool->used() == before + block);
  parent.reset();
  child.reset();
  CHECK(bench.pool->used() == 0);
}

TEST(fork_inside_the_warm_up_copies_features) {
  Bench bench;
  auto parent = bench.cache(bench.chai({2, 2, 2}));
  bench.write(*parent, 0, 3);
  parent->view().features[0] = 42;
  auto child = parent->fork();
  bench.write(*child, 3, 4);
  CHECK(child->view().features[0] == 42);
  CHECK(child->view().features != parent->view().features);
  bench.write(*parent, 3, 4);
  CHECK(parent->view().features[0] == 42);
}

TEST(a_full_pool_refuses_all_or_nothing) {
  Bench bench(3 * 16 + 5);
  auto cache = bench.cache(dense_plan(*bench.config));
  bench.write(*cache, 0, 64);
  CHECK(!cache->reserve(64, 65));
  CHECK(bench.pool->used() == 3 * 16);
  cache->truncate(64);
  CHECK(bench.pool->used() == 3 * 16);
}

}  // namespace chai
