// The narrow interface between the forward pass and a device: memory, and one call a fused step. Nothing here knows files, JS or
// scheduling. In: a Step (rows of many sequences), weights, activations. Out: activations, cache pages, head tables and sampled tokens in
// the device's memory. Pointers called `device` below are usable by the backend that made them only; on the CPU they are host pointers.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "config.h"
#include "head_map.h"
#include "head_plan.h"
#include "sampler.h"

namespace chai {

constexpr int page_rows = 64;  // tokens in a head page

// ---- memory -------------------------------------------------------------------------------------------------------

/// Owned device memory; freed with the last copy.
using Memory = std::shared_ptr<void>;

/// Activations: `rows x width` in whatever element type the backend computes in (float32 on the CPU).
struct Rows {
  Memory memory;
  int rows = 0, width = 0;
};

/// A weight in the form the backend prepared; opaque. One head's rows stay separately addressable in every packing.
struct Matrix {
  int64_t rows = 0, columns = 0;
  virtual ~Matrix() = default;
};
using MatrixRef = std::shared_ptr<const Matrix>;

/// One tensor of a file, read by the backend into memory of its own. `read` copies `bytes` from byte `offset` of the tensor and may
/// throw (I/O error, aborted). `mapped` is the file's mapped bytes (opt-in), which outlive the Matrix, else null.
struct TensorSource {
  Element type = Element::float32;
  int64_t rows = 0, columns = 0;
  std::function<void(size_t offset, size_t bytes, void* to)> read;
  const void* mapped = nullptr;
};

/// Vectors (norms, biases) are MatrixRefs of one row; null where the model has none.
struct Linear {
  MatrixRef weight, bias;
};
struct Norm {
  MatrixRef weight, bias;  // weight null: no norm at this place
};
struct LayerWeights {
  Norm attention_norm, feed_forward_norm;
  Linear query, key, value, attention_output;
  Linear gate, up, down;  // gate null unless config.gated
};
struct ModelWeights {
  MatrixRef token_embedding, position_embedding, embedding_projection;  // the last two may be null
  std::vector<LayerWeights> layers;
  Norm final_norm;
  MatrixRef output_projection;  // OPT's project_out, before `output`; may be null
  MatrixRef output;             // [vocabulary x embedding]; the same object as token_embedding when tied
};

// ---- one step -----------------------------------------------------------------------------------------------------

/// The pool of head pages: page i lies at base + i * page_bytes and holds page_rows rows of head_dim elements of `type`.
struct PoolView {
  void* base = nullptr;
  size_t page_bytes = 0, row_bytes = 0;
  Element type = Element::float32;
};

/// Where a plan's K and V slots stand in a sequence's page table; counts only, known before any membership.
struct PlanGeometry {
  std::shared_ptr<const HeadPlan> plan;
  std::vector<int> key_row, value_row;  // [layers] first page-table row of the layer's K slots and V slots
  int table_rows = 0;                   // rows of the page table, all layers
  int warm_blocks = 0;                  // ceil((S+W)/page_rows), 0 without warm-up
};

/// One sequence's state in device memory.
struct SequenceView {
  const PlanGeometry* geometry = nullptr;
  int32_t* tables = nullptr;  // device [layers][HeadTable::size]; written by `cluster` for method chai, else by the host
  int32_t* block_pages =
      nullptr;  // device [blocks][table_rows] page ids: the page of K or V row r, block b is block_pages[b * table_rows + r]
  int32_t* warm_pages = nullptr;  // device [layers][Hkv][warm_blocks]: keys of tokens < S+W, every key head
  float* features = nullptr;      // device [layers][H][feature_length], filled as warm-up tokens pass
};

/// Consecutive rows of one sequence under one head map.
struct Segment {
  int row = 0, count = 0;  // rows [row, row + count) of the step
  int position = 0;        // position of the first of them in its sequence
  bool warm_up = false;    // tokens < S+W: identity map, keys go to and come from warm_pages (values always to V slots)
  int sequence = 0;        // index into Step::sequences
};

/// Draws one token from one row of logits.
struct Draw {
  int logit_row = 0;  // row of the logits, i.e. index into Step::logit_rows
  Sampling sampling;
  std::span<const int32_t> history;  // host: tokens so far, for the repetition penalty
  uint64_t index = 0;                // position of the drawn token: the random number depends on (seed, index) alone
};

/// A row's token that only the device will know: what draw `draw` of the step submitted before this one gives.
constexpr int32_t token_of_draw(int draw) { return ~draw; }

/// One forward pass over a ragged batch. Host arrays, valid until `finish` returned.
struct Step {
  std::vector<int32_t> tokens;     // [rows] ids; negative: token_of_draw, where steps_in_flight() > 1
  std::vector<int32_t> positions;  // [rows]
  std::vector<Segment> segments;   // in row order, covering all rows
  std::vector<SequenceView> sequences;
  std::vector<int32_t> logit_rows;  // rows whose logits are wanted, ascending
  std::vector<Draw> draws;
  PoolView pool;
  // results, filled by `finish`
  std::vector<int32_t> drawn;   // [draws]
  std::vector<float> logprobs;  // [draws] log-probability of the drawn token under the plain softmax
  int rows() const { return int(tokens.size()); }
};

enum class Phase : uint8_t { warm_up, rest };

struct DeviceMemory {
  uint64_t total = 0, available = 0;  // bytes
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string describe() const = 0;  // e.g. "cpu (AVX-512, 2 threads)"
  virtual DeviceMemory memory() const = 0;

  /// Zero-filled. Throws out_of_memory naming need and available.
  virtual Memory allocate(size_t bytes, const char* what) = 0;
  /// A large region touched page by page over time (the page pool): reserved at once, not necessarily committed.
  virtual Memory reserve(size_t bytes, const char* what) = 0;
  virtual Rows allocate_rows(int rows, int width, const char* what) = 0;
  virtual void upload(void* device, const void* host, size_t bytes) = 0;
  virtual void download(void* host, const void* device, size_t bytes) = 0;  // waits for queued work
  virtual void copy(void* to, const void* from, size_t bytes) = 0;          // device to device
  virtual MatrixRef prepare(const TensorSource& source) = 0;
  /// Logit row `row` (float32, [vocabulary]) into host memory; waits for queued work.
  virtual void download_logits(const Rows& logits, int row, int count, float* host) = 0;

  /// Prepares scratch for steps of up to `rows` rows and `sequences` sequences. Called once, after the weights are there.
  virtual void plan(const Config& config, int rows, int sequences) = 0;
  /// Steps that may be in flight at once: submitted, and not yet finished. They run, and are finished, in the order they were submitted;
  /// activations are those of the last one. A step that begins while others are in flight is plain decoding: one row a segment, no
  /// warm-up, no penalised draw.
  virtual int steps_in_flight() const { return 1; }
  virtual void begin(const Step& step) = 0;
  /// x[row] = projection(embedding[token]) + position embedding
  virtual void embed(const Step& step, const ModelWeights& weights, Rows& x) = 0;
  /// For the segments of `phase`: norm, the projections that the head tables name (all heads in warm-up), bias, rotary embedding.
  /// Queries land in score-slot order, queries[row][slot][head_dim]; keys and values go to their pages. A layer that takes its scores
  /// from another projects values only.
  virtual void qkv(const Step& step, Phase phase, int layer, const LayerWeights& weights, const Rows& x, Rows& queries) = 0;
  /// For warm-up segments: feature rows of tokens S..S+W-1; where a sequence's warm-up ends in this step, its membership: writes the
  /// layer's table and, in `block_pages`, the K slots' warm blocks (the representatives' warm pages are handed over, nothing is copied).
  virtual void cluster(const Step& step, int layer, const Rows& queries) = 0;
  /// mixed[row][query head][head_dim] for all segments. queries[l] are layer l's; a segment reads those of its plan's scores_from.
  virtual void attend(const Step& step, int layer, std::span<const Rows> queries, Rows& mixed) = 0;
  /// x += projection(mixed) (+ bias); then the norm when it is placed after.
  virtual void output(const Step& step, const LayerWeights& weights, const Rows& mixed, Rows& x) = 0;
  /// x += down(act(...)); norms before or after, as the config says.
  virtual void feed_forward(const Step& step, const LayerWeights& weights, Rows& x) = 0;
  /// logits[i] = output(final norm(x[step.logit_rows[i]]))
  virtual void logits(const Step& step, const ModelWeights& weights, const Rows& x, Rows& logits) = 0;
  virtual void sample(const Step& step, const Rows& logits) = 0;
  /// Ends what `begin` began: the device may run the step to its end. Not called for a step of which a call threw.
  virtual void submit(const Step&) {}
  /// Waits for the oldest step in flight, which this is, and fills its results.
  virtual void finish(Step& step) = 0;
};

struct CpuOptions {
  int threads = 0;  // 0: physical cores
};
std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options);

}  // namespace chai
