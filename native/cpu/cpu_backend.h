// The CPU backend: the fused steps of native/backend.h over the private kernels, work shared among the threads of a pool.
// In: steps, weights. Out: activations (float32), cache rows. Every row's bits are independent of the other rows of a step.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "../backend.h"
#include "kernels.h"
#include "matrix.h"
#include "thread_pool.h"

namespace chai::cpu {

constexpr int chunk_rows = 256;  // keys whose softmax is taken at once; chunks are merged in order, so each may run on its own thread
constexpr int block_rows = 24;   // most query rows that share one pass over keys and values

/// Page ids of one head: the page of block b is ids[b * stride].
struct HeadPages {
  const int32_t* ids = nullptr;
  int64_t stride = 1;
  int32_t operator[](int64_t block) const { return ids[block * stride]; }
};

/// The tables that one segment uses in one layer.
struct SegmentHeads {
  const int32_t* own = nullptr;     // the layer's table
  const int32_t* source = nullptr;  // table of the layer whose scores it uses
  int scores_from = 0;
};

/// Query rows of one segment and one score slot that share a pass over the cache.
struct AttendItem {
  int segment, slot, row, count;  // step rows [row, row + count)
};

/// What one worker writes while it works.
struct Scratch {
  float* product;  // [product_scratch]
  float* scores;   // [block_rows x chunk_rows]
  float* values;   // [block_rows x head_dim]
};

/// Rows of one projection that need one head: x and y rows are [first, first + count) of the pointer lists.
struct HeadRows {
  int kind = 0, head = 0;  // kind 0 query, 1 key, 2 value
  int first = 0, count = 0;
};

class CpuBackend final : public Backend {
 public:
  CpuBackend(const Kernels& kernels, int threads);

  std::string describe() const override;
  DeviceMemory memory() const override;
  Memory allocate(size_t bytes, const char* what) override;
  Memory reserve(size_t bytes, const char* what) override;
  Rows allocate_rows(int rows, int width, const char* what) override;
  void upload(void* device, const void* host, size_t bytes) override;
  void download(void* host, const void* device, size_t bytes) override;
  void copy(void* to, const void* from, size_t bytes) override;
  MatrixRef prepare(const TensorSource& source) override;
  void download_logits(const Rows& logits, int row, int count, float* host) override;

  void plan(const Config& config, int rows, int sequences) override;
  void begin(const Step& step) override;
  void embed(const Step& step, const ModelWeights& weights, Rows& x) override;
  void qkv(const Step& step, Phase phase, int layer, const LayerWeights& weights, const Rows& x, Rows& queries) override;
  void cluster(const Step& step, int layer, const Rows& queries) override;
  void attend(const Step& step, int layer, std::span<const Rows> queries, Rows& mixed) override;
  void output(const Step& step, const LayerWeights& weights, const Rows& mixed, Rows& x) override;
  void feed_forward(const Step& step, const LayerWeights& weights, Rows& x) override;
  void logits(const Step& step, const ModelWeights& weights, const Rows& x, Rows& logits) override;
  void sample(const Step& step, const Rows& logits) override;
  void finish(Step& step) override;

 private:
  static float* floats(const Rows& rows) { return static_cast<float*>(rows.memory.get()); }
  static float* row_of(const Rows& rows, int row) { return floats(rows) + int64_t(row) * rows.width; }

  // Work sharing: `cost` is about multiply-adds in all; too little of it is not worth waking anyone.
  template <class Body>
  void share(int tasks, int64_t cost, Body&& body) {
    if (cost < least_shared_work || pool_.threads() == 1)
      for (int task = 0; task < tasks; ++task) body(task, 0);
    else
      pool_.run(tasks, body);
  }
  /// body(first, count, worker) over ranges of columns, each a multiple of 16 wide but the last.
  template <class Body>
  void share_columns(int columns, int64_t cost, Body&& body);
  template <class Body>
  void share_rows(int rows, int64_t cost_of_row, Body&& body);
  static constexpr int64_t least_shared_work = 64 * 1024;

  /// y rows = weight * x rows for the given weight rows; x rows `x_stride` apart.
  void multiply(const CpuMatrix& weight, int first, int count, const float* x, int64_t x_stride, float* y, int64_t y_stride, int rows,
                int worker);
  void project(const Linear& linear, const Rows& from, int rows, Rows& to);      // to = linear(from), bias included
  void project_onto(const Linear& linear, const Rows& from, int rows, Rows& x);  // x += linear(from)
  void normalise(const Norm& norm, const Rows& from, Rows& to, int rows);
  void normalise_row(const Norm& norm, const float* from, float* to, int width) const;

  // qkv.cpp
  SegmentHeads heads_of(const Step& step, const Segment& segment, int layer) const;
  int32_t* table_of(const SequenceView& sequence, int layer) const;
  void list_head_rows(const Step& step, Phase phase, int layer, const Rows& queries);
  void count_head_rows(const Step& step, Phase phase, int layer);
  template <class Visit>
  void each_head(const Step& step, Phase phase, int layer, Visit visit) const;
  void project_heads(const LayerWeights& weights, int rows);
  void store_rows(const Step& step, const Segment& segment, int layer, int row, Rows& queries);
  void store_row(const PoolView& pool, const HeadPages& pages, int position, const float* from);
  HeadPages key_pages(const Step& step, const Segment& segment, int layer, int slot) const;
  HeadPages value_pages(const Step& step, const Segment& segment, int layer, int slot) const;

  // attention.cpp
  struct ItemHeads;
  struct Chunk;
  ItemHeads item_heads(const Step& step, int layer, std::span<const Rows> queries, const AttendItem& item) const;
  void list_items(const Step& step, int layer, int rows_at_once);
  int first_key(int position) const;
  static int64_t to_next_page(const PoolView& pool, const HeadPages& pages, const Chunk& chunk, int at);
  void chunk_scores(const Step& step, const ItemHeads& heads, Chunk& chunk, const Scratch& scratch, SoftmaxState* states) const;
  void chunk_values(const Step& step, const HeadPages& pages, const Chunk& chunk, const Scratch& scratch, float* out) const;
  void attend_whole(const Step& step, const ItemHeads& heads, const AttendItem& item, Rows& mixed, int worker);
  bool attend_split(const Step& step, int layer, std::span<const Rows> queries, Rows& mixed);
  void attend_part(const Step& step, const ItemHeads& heads, const AttendItem& item, int chunk, int64_t at, int worker);
  void merge_parts(const ItemHeads& heads, const AttendItem& item, int position, int64_t at, Rows& mixed) const;
  void finish_rows(const ItemHeads& heads, int row, float sum, Rows& mixed) const;

  // cluster.cpp
  void feature_rows(const Step& step, const Segment& segment, int layer, int head, const Rows& queries, int worker);
  void find_membership(const Step& step, const Segment& segment, int layer);

  Scratch scratch(int worker) const;
  const void* page(const PoolView& pool, int32_t id) const {
    return static_cast<const std::byte*>(pool.base) + size_t(id) * pool.page_bytes;
  }

  const Kernels& kernels_;
  ThreadPool pool_;
  Config config_;
  int rows_ = 0;  // most rows of a step

  // Scratch of a step, all [rows x ...]
  Rows normed_, gate_, up_, projected_, keys_, values_, embedded_;
  Memory worker_memory_;
  int64_t worker_floats_ = 0;
  std::vector<float> cosines_, sines_;  // [rows x head_dim / 2]
  std::vector<int32_t> identity_;       // head table without sharing

  std::vector<HeadRows> head_rows_;  // [H + 2 Hkv]
  std::vector<const float*> from_;   // x rows of head_rows_
  std::vector<float*> to_;           // y rows of head_rows_
  std::vector<AttendItem> items_;
  std::vector<Drawn> drawn_;
  std::vector<DrawBuffers> draw_buffers_;  // [threads]

  // Attention of few rows over long contexts: states of chunks, merged afterwards.
  Memory part_memory_;
  int64_t part_units_ = 0;               // (row, chunk) pairs that fit
  float* part_values_ = nullptr;         // [unit][H][head_dim]
  SoftmaxState* part_states_ = nullptr;  // [unit][H]
};

template <class Body>
void CpuBackend::share_columns(int columns, int64_t cost, Body&& body) {
  // Parts small enough that a thread which loses its core for a while holds up little; large enough to be worth handing out.
  const int64_t most = pool_.threads() == 1 || cost < least_shared_work ? 1 : int64_t(pool_.threads()) * 8;
  const int64_t parts = std::clamp<int64_t>(cost / least_shared_work, 1, most);
  const int width = int(((columns + parts - 1) / parts + 15) / 16 * 16);
  pool_.run((columns + width - 1) / width,
            [&](int part, int worker) { body(part * width, std::min(width, columns - part * width), worker); });
}

template <class Body>
void CpuBackend::share_rows(int rows, int64_t cost_of_row, Body&& body) {
  const int64_t least = std::max<int64_t>(1, least_shared_work / std::max<int64_t>(1, cost_of_row));
  const int block = int(std::max<int64_t>(least, (rows + 4 * pool_.threads() - 1) / (4 * pool_.threads())));
  share((rows + block - 1) / block, rows * cost_of_row, [&](int task, int worker) {
    for (int row = task * block; row < std::min(rows, (task + 1) * block); ++row) body(row, worker);
  });
}

}  // namespace chai::cpu
