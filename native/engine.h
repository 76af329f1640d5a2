// What the addon drives: a loaded model, its sessions, their requests. In: numbers and file positions. Out: tokens, logits, tables.
// Every call may come from any thread and throws chai::Error; callbacks run on the engine's thread and must return at once.
#pragma once
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config.h"
#include "element.h"
#include "head_map.h"
#include "head_plan.h"
#include "sampler.h"

namespace chai {

class Backend;

/// One tensor of the model: rows x columns elements at byte `offset` of files[file].
struct FileTensor {
  int file = -1;  // -1: the model has no such tensor
  uint64_t offset = 0;
  Element type = Element::float32;
  int64_t rows = 0, columns = 0;
};

struct LayerTensors {
  FileTensor attention_norm, attention_norm_bias, query, query_bias, key, key_bias, value, value_bias, attention_output,
      attention_output_bias, feed_forward_norm, feed_forward_norm_bias, gate, gate_bias, up, up_bias, down, down_bias;
};

struct LoadOptions {
  Config config;
  std::vector<std::string> files;
  FileTensor token_embedding, position_embedding, embedding_projection, final_norm, final_norm_bias, output_projection, output;
  std::vector<LayerTensors> layers;
  std::string device = "cpu";
  Element cache_type = Element::float32;
  int64_t cache_tokens = 0;  // tokens the page pool holds at full head count
  int max_batch = 16;        // sequences in a step
  int max_rows = 512;        // rows in a step
  int threads = 0;
  bool mmap = false;
};

/// Called while loading with bytes read and in all; returning false aborts the load.
using Progress = std::function<bool(uint64_t done, uint64_t total)>;

struct MemoryUse {
  uint64_t weights = 0, cache_used = 0, cache_reserved = 0, buffers = 0;
};

struct EngineStats {
  uint64_t steps = 0, rows = 0;
  int largest_batch = 0;
  double step_ms = 0;
};

struct CacheBytes {
  uint64_t keys = 0, values = 0, dense_keys = 0, dense_values = 0;
};

enum class EvaluateResult : uint8_t { none, last, all, score };

/// `error` set: failed. Else `values` as engine callers asked: nothing, [vocabulary], [ids x vocabulary] or [ids].
struct EvaluateOutcome {
  std::exception_ptr error;
  std::vector<float> values;
};

struct GenerateOptions {
  Sampling sampling;
  int max_tokens = 0;
  std::vector<int32_t> stop_tokens;
};

enum class Finish : uint8_t { none, stop, length };

/// What a generation has ready. `error` set: failed (tokens before it are still in `ids`).
struct TokenBatch {
  std::vector<int32_t> ids;
  std::vector<float> logprobs;
  Finish finish = Finish::none;
  int32_t stop_token = -1;
  std::exception_ptr error;
};

struct Timings {
  double prompt_ms = 0, decode_ms = 0;
  int prompt_tokens = 0, decode_tokens = 0;
};

class Generation {
 public:
  virtual ~Generation() = default;
  /// Everything ready now, possibly nothing (`ready` was then not called since the last take). At most 4 tokens wait at a time;
  /// a full queue pauses the sequence.
  virtual TokenBatch take() = 0;
  /// Ends the work after the running step and rolls the sequence back to prompt + `delivered` generated tokens. `done` is called
  /// once, when the sequence is free again (at once when it is). Idempotent.
  virtual void stop(int delivered, std::function<void()> done) = 0;
  virtual Timings timings() const = 0;
};

class Job {
 public:
  virtual ~Job() = default;
  /// Ends the work after the running step and rolls the sequence back to where the job began; its outcome is Code::aborted.
  virtual void cancel() = 0;
};

/// One sequence with its K/V cache. One request at a time: session_busy otherwise.
class Session {
 public:
  virtual ~Session() = default;
  virtual std::shared_ptr<Job> evaluate(std::vector<int32_t> ids, EvaluateResult result, std::function<void(EvaluateOutcome)> done) = 0;
  /// `ready` is called whenever take() has something new to give after having given nothing.
  virtual std::shared_ptr<Generation> generate(std::vector<int32_t> ids, GenerateOptions options, std::function<void()> ready) = 0;
  virtual std::vector<int32_t> tokens() const = 0;
  /// length >= S+W, 0, or the present length; else option_invalid.
  virtual void truncate(int length) = 0;
  virtual std::shared_ptr<Session> fork() = 0;
  virtual std::optional<HeadMap> head_maps() const = 0;
  virtual CacheBytes cache_bytes() const = 0;
  /// Inner products of the heads' warm-up features over their first rows[i] rows (tokens S .. S + rows[i] - 1): [rows][layers][H][H].
  /// For a session of method chai that still warms up, so that nothing was clustered and no feature dropped: `rows` ascending, at most as
  /// many as warm-up tokens were evaluated. Blocks until the steps in flight are over: call it from a worker thread.
  virtual std::vector<double> head_gram(const std::vector<int>& rows) = 0;
  /// Idempotent. A running request ends with Code::closed; `done` is called once all is free.
  virtual void close(std::function<void()> done) = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;
  /// Reads the weights (blocking; call it from a worker thread).
  static std::shared_ptr<Engine> load(const LoadOptions& options, const Progress& progress);
  /// The same on a backend of the caller's.
  static std::shared_ptr<Engine> load(const LoadOptions& options, const Progress& progress, std::unique_ptr<Backend> backend);
  virtual std::shared_ptr<Session> open(HeadPlan plan) = 0;
  virtual MemoryUse memory() const = 0;
  virtual EngineStats stats() const = 0;
  virtual std::string device() const = 0;
  /// Idempotent: running requests end with Code::closed, sessions are closed, the engine's thread ends. Blocks until the steps in
  /// flight are over.
  virtual void close() = 0;
};

}  // namespace chai
