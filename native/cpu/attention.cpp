// Attention over head pages: one softmax a score slot, its weights applied to the V slot of every member head; see cpu_backend.h.
// A row's keys are taken in chunks of 256 positions counted from position 0. Each chunk has a softmax of its own, and chunks are merged in
// order, so a row's bits depend on its position alone, whichever rows or threads share the work.
#include <cstring>

#include "cpu_backend.h"

namespace chai::cpu {

/// Where one score slot of one segment finds its queries, keys and values.
struct CpuBackend::ItemHeads {
  const Segment* segment;
  int layer, slot;
  const float* queries;  // of the segment's row 0 of the step, this slot
  int64_t query_stride;
  HeadPages keys;
  const int32_t* score_of_query;  // [H]
  const int32_t* value_of_query;  // [H]

  bool member(int head) const { return score_of_query[head] == slot; }
};

/// One chunk of keys for some rows: row m sees keys [begin[m], end[m]), counted from `start`; none when begin >= end.
struct CpuBackend::Chunk {
  int start, rows;
  const float* queries;
  int begin[block_rows], end[block_rows];
  int first, last;  // least begin and greatest end
  bool more;        // rows see the chunk behind it too

  Chunk(int index, int position, int count, int window, const float* queries_of_rows)
      : start(index * chunk_rows),
        rows(count),
        queries(queries_of_rows),
        first(chunk_rows),
        last(0),
        more(position + count > start + chunk_rows) {
    for (int m = 0; m < count; ++m) {
      const int from = window > 0 ? std::max(0, position + m - window + 1) : 0;
      begin[m] = std::max(0, from - start);
      end[m] = std::min(chunk_rows, position + m + 1 - start);
      if (begin[m] >= end[m]) continue;
      first = std::min(first, begin[m]);
      last = std::max(last, end[m]);
    }
  }
};

int CpuBackend::first_key(int position) const {
  return config_.sliding_window > 0 ? std::max(0, position - config_.sliding_window + 1) : 0;
}

CpuBackend::ItemHeads CpuBackend::item_heads(const Step& step, int layer, std::span<const Rows> queries, const AttendItem& item) const {
  const Segment& segment = step.segments[item.segment];
  const SegmentHeads heads = heads_of(step, segment, layer);
  const HeadTable table(config_);
  const Rows& q = queries[heads.scores_from];
  ItemHeads out;
  out.segment = &segment;
  out.layer = layer;
  out.slot = item.slot;
  out.queries = floats(q) + item.slot * config_.head_dim;
  out.query_stride = q.width;
  out.keys = key_pages(step, segment, heads.scores_from, heads.source[table.key_of_score() + item.slot]);
  out.score_of_query = heads.own + table.score_of_query();
  out.value_of_query = heads.own + table.value_of_query();
  return out;
}

/// Elements from the page with key `at` of the chunk to the slot's next one; 0: there is none.
int64_t CpuBackend::to_next_page(const PoolView& pool, const HeadPages& pages, const Chunk& chunk, int at) {
  if (at + page_rows >= chunk.last && !chunk.more) return 0;
  const int64_t block = (chunk.start + at) / page_rows;
  return (int64_t(pages[block + 1]) - pages[block]) * int64_t(pool.page_bytes / bytes_of(pool.type));
}

/// scores[m][j] = softmax weight (not yet divided by the sum) of key chunk.start + j; a state for every row.
void CpuBackend::chunk_scores(const Step& step, const ItemHeads& heads, Chunk& chunk, const Scratch& scratch, SoftmaxState* states) const {
  const PoolView& pool = step.pool;
  const int element = int(bytes_of(pool.type));
  const float* from[block_rows];
  float* to[block_rows];
  for (int at = chunk.first / page_rows * page_rows; at < chunk.last; at += page_rows) {
    for (int m = 0; m < chunk.rows; ++m) {
      from[m] = chunk.queries + m * heads.query_stride;
      to[m] = scratch.scores + m * chunk_rows + at;
    }
    kernels_.product(
        {from, to, chunk.rows, page(pool, heads.keys[(chunk.start + at) / page_rows]), pool.type, int64_t(pool.row_bytes) / element,
         std::min(page_rows, chunk.last - at), config_.head_dim, to_next_page(pool, heads.keys, chunk, at)},
        scratch.product);
  }
  for (int m = 0; m < chunk.rows; ++m)
    if (chunk.begin[m] < chunk.end[m])
      states[m] = kernels_.softmax(scratch.scores + m * chunk_rows, chunk.begin[m], chunk.end[m], config_.attention_scale);
}

/// out[m] = sum_j scores[m][j] * value row j. A row never touches values that it does not see: they may be anything.
void CpuBackend::chunk_values(const Step& step, const HeadPages& pages, const Chunk& chunk, const Scratch& scratch, float* out) const {
  const PoolView& pool = step.pool;
  const int d = config_.head_dim, element = int(bytes_of(pool.type));
  std::memset(out, 0, size_t(chunk.rows) * size_t(d) * sizeof(float));
  for (int at = chunk.first / page_rows * page_rows; at < chunk.last; at += page_rows) {
    const auto* values = static_cast<const std::byte*>(page(pool, pages[(chunk.start + at) / page_rows]));
    const int64_t ahead = to_next_page(pool, pages, chunk, at);
    const auto sum = [&](int row, int rows, int begin, int end) {
      if (begin >= end) return;
      kernels_.weighted_sum({scratch.scores + row * chunk_rows + begin, chunk_rows, rows, end - begin,
                             values + size_t(begin - at) * pool.row_bytes, pool.type, int64_t(pool.row_bytes) / element, d, out + row * d,
                             d, ahead});
    };
    for (int row = 0; row < chunk.rows; row += kernels_.tile_rows) {
      const int rows = std::min(kernels_.tile_rows, chunk.rows - row);
      // What all these rows see is summed together, what only some see before and after it, each key in its turn.
      int begin = at, end = at + page_rows;
      for (int m = row; m < row + rows; ++m) begin = std::max(begin, chunk.begin[m]), end = std::min(end, chunk.end[m]);
      if (begin >= end) begin = end = at + page_rows;
      for (int m = row; m < row + rows; ++m) sum(m, 1, std::max(at, chunk.begin[m]), std::min(begin, chunk.end[m]));
      sum(row, rows, begin, end);
      for (int m = row; m < row + rows; ++m) sum(m, 1, std::max(end, chunk.begin[m]), std::min(at + page_rows, chunk.end[m]));
    }
  }
}

namespace {

/// The state of the chunks so far, and how much the newest chunk and those before count in the merged result.
struct Running {
  SoftmaxState state;
  bool empty = true;
  float before = 0, newest = 1;

  void add(const Kernels& kernels, const SoftmaxState& chunk) {
    if (empty) {
      state = chunk;
      empty = false;
      before = 0, newest = 1;
      return;
    }
    const float greatest = std::max(state.greatest, chunk.greatest);
    float weights[2] = {state.greatest, chunk.greatest};
    // The softmax kernel gives exp(score - greatest score) for both, with the same exponential as everywhere.
    kernels.softmax(weights, 0, 2, 1.0f);
    before = weights[0], newest = weights[1];
    state = {greatest, state.sum * before + chunk.sum * newest};
  }
  /// to = merged values; `first`: nothing there yet.
  void merge(const Kernels& kernels, float* to, const float* values, int width) const {
    if (before == 0 && newest == 1)
      std::memcpy(to, values, size_t(width) * sizeof(float));
    else
      kernels.blend(to, before, values, newest, width);
  }
};

}  // namespace

/// mixed = values / sum at the first member head of every V slot, copied to the members that share the V slot.
void CpuBackend::finish_rows(const ItemHeads& heads, int row, float sum, Rows& mixed) const {
  const int d = config_.head_dim;
  for (int head = 0; head < config_.heads; ++head) {
    if (!heads.member(head)) continue;
    int first = 0;
    while (!heads.member(first) || heads.value_of_query[first] != heads.value_of_query[head]) ++first;
    float* to = row_of(mixed, row) + head * d;
    if (first == head)
      kernels_.divide(to, sum, to, d);
    else
      std::memcpy(to, row_of(mixed, row) + first * d, size_t(d) * sizeof(float));
  }
}

/// The first member head of every V slot of this score slot: visit(head, V slot).
template <class Heads, class Visit>
static void each_value(const Heads& heads, int count, Visit visit) {
  for (int head = 0; head < count; ++head) {
    if (!heads.member(head)) continue;
    bool seen = false;
    for (int other = 0; other < head && !seen; ++other)
      seen = heads.member(other) && heads.value_of_query[other] == heads.value_of_query[head];
    if (!seen) visit(head, heads.value_of_query[head]);
  }
}

void CpuBackend::attend_whole(const Step& step, const ItemHeads& heads, const AttendItem& item, Rows& mixed, int worker) {
  const Segment& segment = *heads.segment;
  const int d = config_.head_dim, position = segment.position + item.row - segment.row;
  const int last = (position + item.count - 1) / chunk_rows;
  const Scratch own = scratch(worker);
  Running running[block_rows];
  SoftmaxState states[block_rows];
  for (int index = first_key(position) / chunk_rows; index <= last; ++index) {
    Chunk chunk(index, position, item.count, config_.sliding_window, heads.queries + item.row * heads.query_stride);
    chunk_scores(step, heads, chunk, own, states);
    for (int m = 0; m < item.count; ++m)
      if (chunk.begin[m] < chunk.end[m]) running[m].add(kernels_, states[m]);
    each_value(heads, config_.heads, [&](int head, int slot) {
      chunk_values(step, value_pages(step, segment, heads.layer, slot), chunk, own, own.values);
      for (int m = 0; m < item.count; ++m)
        if (chunk.begin[m] < chunk.end[m]) running[m].merge(kernels_, row_of(mixed, item.row + m) + head * d, own.values + m * d, d);
    });
  }
  for (int m = 0; m < item.count; ++m) finish_rows(heads, item.row + m, running[m].state.sum, mixed);
}

void CpuBackend::list_items(const Step& step, int layer, int rows_at_once) {
  items_.clear();
  for (int s = 0; s < int(step.segments.size()); ++s) {
    const Segment& segment = step.segments[s];
    const SegmentHeads heads = heads_of(step, segment, layer);
    for (int end = segment.row + segment.count; end > segment.row; end -= rows_at_once) {  // the longest contexts first
      const int row = std::max(segment.row, end - rows_at_once);
      for (int slot = 0; slot < heads.source[0]; ++slot) items_.push_back({s, slot, row, end - row});
    }
  }
}

/// One chunk of one row: values and state go to the unit `at`.
void CpuBackend::attend_part(const Step& step, const ItemHeads& heads, const AttendItem& item, int index, int64_t at, int worker) {
  const Segment& segment = *heads.segment;
  const int d = config_.head_dim, position = segment.position + item.row - segment.row;
  const Scratch own = scratch(worker);
  Chunk chunk(index, position, 1, config_.sliding_window, heads.queries + item.row * heads.query_stride);
  chunk.more = false;  // another thread may take that
  chunk_scores(step, heads, chunk, own, part_states_ + at * config_.heads + item.slot);
  each_value(heads, config_.heads, [&](int head, int slot) {
    chunk_values(step, value_pages(step, segment, heads.layer, slot), chunk, own, part_values_ + (at * config_.heads + head) * d);
  });
}

void CpuBackend::merge_parts(const ItemHeads& heads, const AttendItem& item, int position, int64_t at, Rows& mixed) const {
  const int d = config_.head_dim;
  Running running;
  for (int index = first_key(position) / chunk_rows; index <= position / chunk_rows; ++index, ++at) {
    running.add(kernels_, part_states_[at * config_.heads + item.slot]);
    each_value(heads, config_.heads, [&](int head, int) {
      running.merge(kernels_, row_of(mixed, item.row) + head * d, part_values_ + (at * config_.heads + head) * d, d);
    });
  }
  finish_rows(heads, item.row, running.state.sum, mixed);
}

/// Decode of few rows over long contexts: chunks go to different threads. False when that is not the case.
bool CpuBackend::attend_split(const Step& step, int layer, std::span<const Rows> queries, Rows& mixed) {
  if (part_units_ == 0 || int(items_.size()) >= 4 * pool_.threads()) return false;
  struct Part {
    int item, chunk;
    int64_t unit;
  };
  std::vector<Part> parts;
  std::vector<int64_t> first_unit(items_.size());
  std::vector<int64_t> unit_of_row(size_t(step.rows()), -1);
  int64_t units = 0;
  const auto position_of = [&](const AttendItem& item) {
    const Segment& segment = step.segments[item.segment];
    return segment.position + item.row - segment.row;
  };
  for (int i = 0; i < int(items_.size()); ++i) {
    const AttendItem& item = items_[i];
    if (item.count != 1) return false;
    const int position = position_of(item), from = first_key(position) / chunk_rows, to = position / chunk_rows;
    if (unit_of_row[item.row] < 0) {
      unit_of_row[item.row] = units;
      units += to - from + 1;
    }
    first_unit[i] = unit_of_row[item.row];
    for (int chunk = from; chunk <= to; ++chunk) parts.push_back({i, chunk, first_unit[i] + chunk - from});
  }
  if (units > part_units_ || parts.size() == items_.size()) return false;
  const int64_t cost = int64_t(parts.size()) * chunk_rows * config_.head_dim;
  share(int(parts.size()), cost, [&](int i, int worker) {
    const AttendItem& item = items_[parts[i].item];
    attend_part(step, item_heads(step, layer, queries, item), item, parts[i].chunk, parts[i].unit, worker);
  });
  share(int(items_.size()), cost / chunk_rows, [&](int i, int) {
    merge_parts(item_heads(step, layer, queries, items_[i]), items_[i], position_of(items_[i]), first_unit[i], mixed);
  });
  return true;
}

void CpuBackend::attend(const Step& step, int layer, std::span<const Rows> queries, Rows& mixed) {
  list_items(step, layer, block_rows);
  if (attend_split(step, layer, queries, mixed)) return;
  int64_t cost = 0;
  for (const Segment& segment : step.segments) cost += int64_t(segment.count) * (segment.position + segment.count) * config_.query_width();
  share(int(items_.size()), cost,
        [&](int i, int worker) { attend_whole(step, item_heads(step, layer, queries, items_[i]), items_[i], mixed, worker); });
}

}  // namespace chai::cpu
