// The two kinds of work on a sequence: evaluate given tokens, or generate new ones. In: rows put into a step, and the step's results.
// Out: logits, scores, drawn tokens, through callbacks that the scheduler runs once its lock is free.
#pragma once
#include <chrono>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <vector>

#include "backend.h"
#include "engine.h"
#include "sequence.h"

namespace chai {

using Callbacks = std::vector<std::function<void()>>;

/// What of a request is in a step.
struct Share {
  int count = 0;  // rows
  int draw = -1;  // index into the step's draws; -1: none
};

/// Whether one more row may follow a request's rows in flight, before their results are known.
enum class Follow : uint8_t {
  waits,    // what comes next can be told from the results only
  rests,    // nothing more can come for now, whatever the results are
  goes_on,  // the token that the last of them draws
};

class Request {
 public:
  explicit Request(std::shared_ptr<Sequence> sequence) : sequence(std::move(sequence)) {}
  virtual ~Request() = default;

  std::shared_ptr<Sequence> sequence;
  int in_flight = 0;             // steps in flight with rows of it: while there are any, only the scheduler may touch its sequence
  uint64_t order = 0;            // when it was submitted
  std::exception_ptr interrupt;  // cancelled, closed or stopped meanwhile, or its results could not be fetched; handled after the
                                 // next of its steps

  /// Whether rows of it may go into a step now.
  virtual bool runnable() const { return sequence->pending() > 0; }
  /// Rows at most in the next step, given how many logit rows the step still has room for.
  virtual int row_limit(int logit_room) const = 0;
  virtual Follow follow() const { return Follow::waits; }
  /// Of the row that follows, when each step in flight gives one token.
  int next_position() const { return sequence->length() + in_flight - 1; }
  /// Rows [from, from + count) of the sequence are rows [row, ...) of the step: asks for the logits and draws it needs. Returns its
  /// share of the step.
  virtual Share plan(Step& step, int row, int from, int count) = 0;
  /// After the step, without the lock: fetches results into the request's own buffers.
  virtual void collect(Backend&, const Rows& /*logits*/) {}
  /// Under the lock, after sequence->cached was advanced. True when the request has ended.
  virtual bool commit(const Step& step, const Share& share, double milliseconds, Callbacks& callbacks) = 0;
  /// Ends the request; the sequence is rolled back.
  virtual void fail(std::exception_ptr error, Callbacks& callbacks) = 0;
};

/// Appends tokens; logits of the last or of all of them, or the log-probability of each.
class EvaluateRequest : public Request {
 public:
  EvaluateRequest(std::shared_ptr<Sequence> sequence, const std::vector<int32_t>& ids, EvaluateResult result, int vocabulary,
                  std::function<void(EvaluateOutcome)> done);
  int row_limit(int logit_room) const override;
  Share plan(Step& step, int row, int from, int count) override;
  void collect(Backend& backend, const Rows& logits) override;
  bool commit(const Step& step, const Share& share, double milliseconds, Callbacks& callbacks) override;
  void fail(std::exception_ptr error, Callbacks& callbacks) override;

 private:
  bool wants_logits(int position) const;
  void make_room();

  const int base_;  // tokens before this request
  const int vocabulary_;
  const EvaluateResult result_;
  std::function<void(EvaluateOutcome)> done_;
  std::vector<float> values_;                                   // sized with the first results
  int first_logit_ = 0, logit_count_ = 0, first_position_ = 0;  // of the step under way
};

/// Tokens of one generation wait here until they are taken; at most `queue_limit`, which is how far the engine runs ahead.
class GenerateRequest : public Request {
 public:
  static constexpr int queue_limit = 4;
  GenerateRequest(std::shared_ptr<Sequence> sequence, const std::vector<int32_t>& ids, GenerateOptions options, int context,
                  std::function<void()> ready);
  bool runnable() const override;
  int row_limit(int) const override { return sequence->pending(); }
  Follow follow() const override;
  Share plan(Step& step, int row, int from, int count) override;
  bool commit(const Step& step, const Share& share, double milliseconds, Callbacks& callbacks) override;
  void fail(std::exception_ptr error, Callbacks& callbacks) override;

  TokenBatch take();  // under the lock
  bool finished() const { return finish_ != Finish::none || error_ != nullptr; }
  int base() const { return base_; }
  const Timings& timings() const { return timings_; }
  std::vector<std::function<void()>> on_stopped;  // wait for the next step
  int stop_at = -1;                               // sequence length to keep, once stopped

 private:
  void accept(int32_t id, float logprob);

  const int base_;  // tokens before the first generated one
  const int context_;
  const GenerateOptions options_;
  std::function<void()> ready_;
  bool waiting_ = false;  // take() last gave nothing
  std::vector<int32_t> ids_;
  std::vector<float> logprobs_;
  Finish finish_ = Finish::none;
  int32_t stop_token_ = -1;
  std::exception_ptr error_;
  int generated_ = 0;
  Timings timings_;
};

}  // namespace chai
