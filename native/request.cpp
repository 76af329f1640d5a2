// The two kinds of work on a sequence; see request.h.
#include "request.h"

#include <algorithm>
#include <limits>

#include "error.h"
#include "sampler.h"

namespace chai {

// ---- evaluate -----------------------------------------------------------------------------------------------------

EvaluateRequest::EvaluateRequest(std::shared_ptr<Sequence> of, const std::vector<int32_t>& ids, EvaluateResult result, int vocabulary,
                                 std::function<void(EvaluateOutcome)> done)
    : Request(std::move(of)), base_(sequence->length()), vocabulary_(vocabulary), result_(result), done_(std::move(done)) {
  if (result == EvaluateResult::score) sequence->recompute_last();  // the first new token's score needs its logits
  sequence->tokens.insert(sequence->tokens.end(), ids.begin(), ids.end());
}

/// Not in the constructor: that runs on the caller's thread, and clearing hundreds of megabytes takes long.
void EvaluateRequest::make_room() {
  const size_t ids = size_t(sequence->length() - base_);
  if (result_ == EvaluateResult::last) values_.resize(size_t(vocabulary_));
  if (result_ == EvaluateResult::all) values_.resize(ids * size_t(vocabulary_));
  if (result_ == EvaluateResult::score && values_.empty())
    values_.assign(ids, std::numeric_limits<float>::quiet_NaN());  // the first token of all has no probability
}

bool EvaluateRequest::wants_logits(int position) const {
  const int last = sequence->length() - 1;
  switch (result_) {
    case EvaluateResult::none: return false;
    case EvaluateResult::last: return position == last;
    case EvaluateResult::all: return position >= base_;
    case EvaluateResult::score: return position >= base_ - 1 && position < last;
  }
  return false;
}

int EvaluateRequest::row_limit(int logit_room) const {
  int rows = 0, wanted = 0;
  for (int position = sequence->cached; position < sequence->length(); ++position, ++rows)
    if (wants_logits(position) && ++wanted > logit_room) break;
  return rows;
}

Share EvaluateRequest::plan(Step& step, int row, int from, int count) {
  first_logit_ = int(step.logit_rows.size());
  logit_count_ = 0;
  for (int i = 0; i < count; ++i) {
    if (!wants_logits(from + i)) continue;
    if (logit_count_++ == 0) first_position_ = from + i;
    step.logit_rows.push_back(row + i);
  }
  return {count, -1};
}

void EvaluateRequest::collect(Backend& backend, const Rows& logits) {
  make_room();
  if (logit_count_ == 0) return;
  if (result_ == EvaluateResult::last) return backend.download_logits(logits, first_logit_, 1, values_.data());
  if (result_ == EvaluateResult::all) {
    const size_t at = size_t(first_position_ - base_) * vocabulary_;
    return backend.download_logits(logits, first_logit_, logit_count_, values_.data() + at);
  }
  std::vector<float> row(vocabulary_);
  for (int i = 0; i < logit_count_; ++i) {
    backend.download_logits(logits, first_logit_ + i, 1, row.data());
    const int next = first_position_ + i + 1;
    values_[next - base_] = float(log_probability(row, sequence->tokens[next]));
  }
}

bool EvaluateRequest::commit(const Step&, const Share&, double, Callbacks& callbacks) {
  if (sequence->pending() > 0) return false;
  callbacks.push_back([done = std::move(done_), values = std::make_shared<std::vector<float>>(std::move(values_))] {
    done({nullptr, std::move(*values)});
  });
  return true;
}

void EvaluateRequest::fail(std::exception_ptr error, Callbacks& callbacks) {
  sequence->rollback(base_);
  callbacks.push_back([done = std::move(done_), error] { done({error, {}}); });
}

// ---- generate -----------------------------------------------------------------------------------------------------

GenerateRequest::GenerateRequest(std::shared_ptr<Sequence> of, const std::vector<int32_t>& ids, GenerateOptions options, int context,
                                 std::function<void()> ready)
    : Request(std::move(of)),
      base_(sequence->length() + int(ids.size())),
      context_(context),
      options_(std::move(options)),
      ready_(std::move(ready)) {
  if (ids.empty()) sequence->recompute_last();  // go on from the last token
  sequence->tokens.insert(sequence->tokens.end(), ids.begin(), ids.end());
  ids_.reserve(queue_limit);
  if (options_.max_tokens == 0) finish_ = Finish::length;
}

bool GenerateRequest::runnable() const { return !finished() && Request::runnable() && int(ids_.size()) < queue_limit; }

/// Every step in flight gives one token.
Follow GenerateRequest::follow() const {
  if (generated_ + in_flight >= options_.max_tokens || sequence->length() + in_flight >= context_) return Follow::rests;
  if (int(ids_.size()) + in_flight >= queue_limit) return Follow::rests;
  return options_.sampling.penalised() || !sequence->cache->resolved() ? Follow::waits : Follow::goes_on;
}

Share GenerateRequest::plan(Step& step, int row, int from, int count) {
  const int end = from + count, known = sequence->length();
  if (end < known) return {count, -1};
  const std::span<const int32_t> history(sequence->tokens.data(),
                                         end == known ? size_t(known) : 0);  // behind steps in flight none is whole
  step.draws.push_back({int(step.logit_rows.size()), options_.sampling, history, uint64_t(end)});
  step.logit_rows.push_back(row + count - 1);
  return {count, int(step.draws.size()) - 1};
}

bool GenerateRequest::commit(const Step& step, const Share& share, double milliseconds, Callbacks& callbacks) {
  const bool prompt = generated_ == 0;
  (prompt ? timings_.prompt_ms : timings_.decode_ms) += milliseconds;
  (prompt ? timings_.prompt_tokens : timings_.decode_tokens) += share.count;
  if (share.draw < 0) return false;
  accept(step.drawn[size_t(share.draw)], step.logprobs[size_t(share.draw)]);
  if (waiting_) {
    waiting_ = false;
    callbacks.push_back(ready_);
  }
  return finished();
}

void GenerateRequest::accept(int32_t id, float logprob) {
  const auto& stops = options_.stop_tokens;
  if (std::find(stops.begin(), stops.end(), id) != stops.end()) {
    finish_ = Finish::stop;
    stop_token_ = id;
    return;
  }
  sequence->tokens.push_back(id);
  ids_.push_back(id);
  if (options_.sampling.logprobs) logprobs_.push_back(logprob);
  ++generated_;
  if (generated_ >= options_.max_tokens || sequence->length() >= context_) finish_ = Finish::length;
}

void GenerateRequest::fail(std::exception_ptr error, Callbacks& callbacks) {
  error_ = error;
  if (stop_at >= 0) sequence->rollback(stop_at);
  if (waiting_) callbacks.push_back(ready_);
  waiting_ = false;
  for (auto& done : on_stopped) callbacks.push_back(std::move(done));
  on_stopped.clear();
}

TokenBatch GenerateRequest::take() {
  TokenBatch batch;
  batch.ids.swap(ids_);
  batch.logprobs.swap(logprobs_);
  if (finished() || !batch.ids.empty()) {
    batch.finish = finish_;
    batch.stop_token = stop_token_;
    batch.error = error_;
  } else {
    waiting_ = true;
  }
  return batch;
}

}  // namespace chai
