// Joins the ready segments of all open sequences into steps; see scheduler.h.
#include "scheduler.h"

#include <algorithm>
#include <string>
#include <utility>

#include "error.h"

namespace chai {
namespace {

void run_all(Callbacks& callbacks) {
  for (auto& callback : callbacks) callback();
  callbacks.clear();
}

std::exception_ptr closed_error() {
  return std::make_exception_ptr(Error(Code::closed, "the model or session was closed while it was working"));
}

/// What `work` throws, or null.
template <class Work>
std::exception_ptr failure_of(Work work) {
  try {
    work();
  } catch (const std::bad_alloc&) {
    return std::make_exception_ptr(Error(Code::out_of_memory, "no memory left for a step; close models or sessions, or lower maxBatch"));
  } catch (...) {
    return std::current_exception();
  }
  return nullptr;
}

}  // namespace

Scheduler::Scheduler(std::shared_ptr<const Config> config, Machine machine, std::shared_ptr<PagePool> pages, StepLimits limits)
    : config_(std::move(config)), machine_(std::move(machine)), pages_(std::move(pages)), limits_(limits), own_queries_(config_->layers) {}

void Scheduler::start() {
  thread_ = std::thread([self = shared_from_this()] { self->run(); });  // the thread keeps what it works on alive
}

void Scheduler::close() {
  {
    const auto hold = lock();
    closing_ = true;
    wake();
  }
  std::call_once(joined_, [this] {
    if (!thread_.joinable()) return;
    if (thread_.get_id() == std::this_thread::get_id())
      thread_.detach();  // closed from a callback: the thread ends by itself
    else
      thread_.join();
  });
}

void Scheduler::wake() {
  change_ = true;
  changed_.notify_all();
}

std::shared_ptr<Sequence> Scheduler::open(std::shared_ptr<const PlanGeometry> geometry) {
  auto sequence = std::make_shared<Sequence>();
  sequence->cache = std::make_unique<SequenceCache>(std::move(geometry), config_, pages_);
  std::erase_if(sequences_, [](const auto& other) { return other.expired(); });
  sequences_.push_back(sequence);
  return sequence;
}

std::shared_ptr<Sequence> Scheduler::fork(const Sequence& from) {
  auto sequence = open(from.cache->shared_geometry());
  sequence->tokens = from.tokens;
  sequence->cached = from.cached;
  sequence->cache = from.cache->fork();
  return sequence;
}

void Scheduler::submit(std::shared_ptr<Request> request) {
  request->sequence->request = request;
  request->sequence->newest = request.get();
  request->order = next_order_++;
  active_.push_back(std::move(request));
  wake();
}

void Scheduler::interrupt(Request& request, std::exception_ptr error, Callbacks& callbacks) {
  if (request.in_flight > 0)
    request.interrupt = error;
  else
    end(request, error, callbacks);
}

/// Ends a request; steps still in flight go on without it.
void Scheduler::end(Request& request, std::exception_ptr error, Callbacks& callbacks) {
  const auto sequence = request.sequence;  // may hold the last reference to the request
  leave(request);
  request.fail(error, callbacks);
  std::erase_if(active_, [&](const auto& other) { return other.get() == &request; });
  sequence->request.reset();
  if (sequence->closed) close_sequence(*sequence, callbacks);
  wake();
}

void Scheduler::close_sequence(Sequence& sequence, Callbacks& callbacks) {
  sequence.closed = true;
  if (sequence.request) return interrupt(*sequence.request, closed_error(), callbacks);  // comes back here when it has ended
  sequence.cache.reset();
  sequence.tokens.clear();
  sequence.cached = 0;
  for (auto& done : sequence.on_closed) callbacks.push_back(std::move(done));
  sequence.on_closed.clear();
  wake();
}

void Scheduler::run_errand(Errand errand) {
  errands_.push_back(std::move(errand));
  wake();
}

/// Whether there were any.
bool Scheduler::run_errands(std::unique_lock<std::mutex>& hold) {
  std::vector<Errand> errands = std::exchange(errands_, {});
  if (errands.empty()) return false;
  hold.unlock();
  for (const Errand& errand : errands) errand(machine_.backend.get());
  errands.clear();  // what they hold may live in the backend's memory
  hold.lock();
  return true;
}

MemoryUse Scheduler::memory() const {
  if (!machine_.backend) return {};
  return {machine_.loaded.bytes, uint64_t(pages_->used()) * page_bytes(), uint64_t(pages_->capacity()) * page_bytes(),
          machine_.buffer_bytes};
}

void Scheduler::run() {
  std::unique_lock hold(mutex_);
  while (!closing_ || !flights_.empty()) {
    Callbacks callbacks;
    change_ = false;
    if (flights_.empty() && run_errands(hold)) continue;
    if (launch(hold, callbacks)) continue;
    if (!flights_.empty()) {
      land(hold, callbacks);
    } else if (callbacks.empty() && !change_) {
      const auto awake = [this] { return change_ || closing_; };
      if (starved_.empty())
        changed_.wait(hold, awake);
      else if (!changed_.wait_for(hold, std::chrono::seconds(1), awake))  // somebody may still pull tokens, end and free pages
        fail_starved(callbacks);
    }
    if (callbacks.empty()) continue;
    hold.unlock();
    run_all(callbacks);
    hold.lock();
  }
  Callbacks callbacks;
  shut_down(callbacks);
  hold.unlock();
  run_all(callbacks);
}

/// Sends the next step to the device, if there is one. Whether another might follow it at once.
bool Scheduler::launch(std::unique_lock<std::mutex>& hold, Callbacks& callbacks) {
  const size_t most = size_t(std::max(1, machine_.backend->steps_in_flight()));
  if (flights_.size() >= most) return false;
  Flight flight;
  flight.step.pool = machine_.pool;
  if (flights_.empty())
    plan(flight, callbacks);
  else
    plan_ahead(flight);
  if (flight.parts.empty()) return false;
  hold.unlock();
  enqueue(flight);
  hold.lock();
  flights_.push_back(std::move(flight));
  return flights_.size() < most && callbacks.empty();
}

/// Waits for the oldest step and deals out what it gave. Each step's time counts from the end of the one before it.
void Scheduler::land(std::unique_lock<std::mutex>& hold, Callbacks& callbacks) {
  hold.unlock();
  finish(flights_.front());
  const auto now = Clock::now();
  const std::chrono::duration<double, std::milli> took = now - std::max(flights_.front().start, landed_);
  landed_ = now;
  hold.lock();
  Flight flight = std::move(flights_.front());  // may hold the last reference to a sequence: goes under the lock
  flights_.pop_front();
  commit(flight, took.count(), callbacks);
}

/// Decode rows first, then prompt chunks into what room is left; one place is kept for a waiting prompt.
void Scheduler::plan(Flight& flight, Callbacks& callbacks) {
  starved_.clear();
  auto& parts = flight.parts;
  std::vector<std::shared_ptr<Request>> decodes, prompts;
  for (const auto& request : active_)
    if (request->runnable()) (request->sequence->pending() == 1 ? decodes : prompts).push_back(request);
  const size_t places = size_t(limits_.sequences) - (prompts.empty() || limits_.sequences == 1 ? 0 : 1);
  for (const auto& request : decodes)
    if (parts.size() < places) add(request, flight, callbacks);
  for (const auto& request : prompts)
    if (parts.size() < size_t(limits_.sequences)) add(request, flight, callbacks);
  for (const auto& part : parts) {  // served: to the end of the turn order
    std::erase(active_, part.request);
    active_.push_back(part.request);
  }
}

void Scheduler::add(const std::shared_ptr<Request>& request, Flight& flight, Callbacks& callbacks) {
  const Step& step = flight.step;
  Sequence& sequence = *request->sequence;
  const int from = sequence.cached;
  const int room = std::min(limits_.rows - step.rows(), sequence.pending());
  const int count = std::min(room, request->row_limit(limits_.logit_rows - int(step.logit_rows.size())));
  if (count <= 0) return;
  try {
    if (!sequence.cache->reserve(from, from + count)) return starved_.push_back(request);
  } catch (...) {
    return drop(*request, std::current_exception(), callbacks);
  }
  put(request, flight, from, count, -1);
}

/// Rows [from, from + count) of a sequence, whose pages are reserved, go into a step. `draw`: of the step before, which gives the first
/// row's token; -1: the sequence has them.
void Scheduler::put(const std::shared_ptr<Request>& request, Flight& flight, int from, int count, int draw) {
  Step& step = flight.step;
  const Sequence& sequence = *request->sequence;
  const int to = from + count, row = step.rows(), warm_end = sequence.warmup_end();
  const Share share = request->plan(step, row, from, count);
  const int warm = std::clamp(warm_end - from, 0, count), index = int(step.sequences.size());
  if (warm > 0) step.segments.push_back({row, warm, from, true, index});
  if (count > warm) step.segments.push_back({row + warm, count - warm, from + warm, false, index});
  step.sequences.emplace_back();  // filled by `prepare`
  for (int position = from; position < to; ++position) {
    step.tokens.push_back(draw >= 0 ? token_of_draw(draw) : sequence.tokens[size_t(position)]);
    step.positions.push_back(position);
  }
  ++request->in_flight;
  flight.parts.push_back({request, share, from < warm_end && to >= warm_end});
}

/// A layer whose scores a later one uses keeps its queries in a buffer of its own from now on.
void Scheduler::keep_source_queries(const HeadPlan& plan) {
  auto& queries = machine_.activations.queries;
  for (int layer = 0; layer < config_->layers; ++layer) {
    const int source = plan.scores_from(layer);
    if (source == layer || own_queries_[source]) continue;
    queries[source] = machine_.backend->allocate_rows(limits_.rows, config_->query_width(), "queries of a shared layer");
    own_queries_[source] = true;
    const auto hold = lock();
    machine_.buffer_bytes += sizeof(float) * size_t(limits_.rows) * config_->query_width();
  }
}

/// A request whose results find no memory fails alone; the step itself is sound.
void Scheduler::collect(Request& request) {
  std::exception_ptr failure;
  try {
    request.collect(*machine_.backend, machine_.activations.logits);
  } catch (const std::bad_alloc&) {
    failure = std::make_exception_ptr(Error(Code::out_of_memory, "no memory for the logits; ask for fewer tokens at once"));
  }
  if (!failure) return;
  const auto hold = lock();
  if (!request.interrupt) request.interrupt = failure;
}

/// The sequences' tables go to the device: without the lock, since that may take its time; a sequence in a step is the scheduler's alone.
void Scheduler::prepare(Flight& flight) {
  for (size_t i = 0; i < flight.parts.size(); ++i) {
    flight.failure.of = flight.parts[i].request.get();
    SequenceCache& cache = *flight.parts[i].request->sequence->cache;
    cache.sync(*machine_.backend, machine_.pool);
    keep_source_queries(*cache.geometry().plan);
    flight.step.sequences[i] = cache.view();
  }
  flight.failure.of = nullptr;
}

void Scheduler::enqueue(Flight& flight) {
  flight.start = Clock::now();
  flight.failure.error = failure_of([&] {
    prepare(flight);
    forward(*machine_.backend, machine_.loaded.weights, flight.step, machine_.activations);
  });
}

void Scheduler::finish(Flight& flight) {
  if (flight.failure.error) return;  // it never flew
  flight.failure.error = failure_of([&] {
    machine_.backend->finish(flight.step);
    for (const auto& part : flight.parts) {
      if (!part.request) continue;
      if (part.finds_membership) part.request->sequence->cache->adopt_tables(*machine_.backend);
      collect(*part.request);
    }
  });
}

/// What a failed step wrote is unknown: the whole sequence is computed again when it is used next.
void Scheduler::drop(Request& request, std::exception_ptr error, Callbacks& callbacks) {
  request.sequence->uncache(0);
  request.sequence->cache->clear();
  end(request, error, callbacks);
}

void Scheduler::commit(Flight& flight, double milliseconds, Callbacks& callbacks) {
  const Failure& failure = flight.failure;
  if (!failure.of) {
    ++stats_.steps;
    stats_.rows += uint64_t(flight.step.rows());
    stats_.largest_batch = std::max(stats_.largest_batch, int(flight.parts.size()));
    stats_.step_ms += milliseconds;
  }
  for (auto& part : flight.parts) {
    if (!part.request) continue;
    Request& request = *part.request;
    Sequence& sequence = *request.sequence;
    --request.in_flight;
    sequence.cache->settle();
    if (failure.error && (!failure.of || failure.of == &request)) {
      drop(request, failure.error, callbacks);
      continue;
    }
    if (failure.of) {  // nothing was computed: another request failed before. Pages may still wait to be copied, hence `drop`
      if (request.interrupt) drop(request, request.interrupt, callbacks);
      continue;
    }
    if (part.finds_membership) sequence.cache->adopt_pages();
    sequence.cached += part.share.count;
    if (request.interrupt)
      end(request, request.interrupt, callbacks);
    else if (request.commit(flight.step, part.share, milliseconds, callbacks)) {
      leave(request);
      std::erase(active_, part.request);
      sequence.request.reset();
    }
  }
}

/// Nothing else can run, and these need pages that nobody gives back: the newest gives way.
void Scheduler::fail_starved(Callbacks& callbacks) {
  const auto newest = *std::max_element(starved_.begin(), starved_.end(), [](const auto& a, const auto& b) { return a->order < b->order; });
  const std::string tokens = std::to_string(int64_t(pages_->capacity()) * page_rows / (2 * config_->layers * config_->key_value_heads));
  end(*newest,
      std::make_exception_ptr(Error(Code::out_of_memory, "the K/V cache is full (" + tokens +
                                                             " tokens at full head count, shared by all sessions): close sessions, "
                                                             "shorten prompts or raise cacheTokens")),
      callbacks);
}

void Scheduler::shut_down(Callbacks& callbacks) {
  for (const Errand& errand : std::exchange(errands_, {})) errand(nullptr);
  for (const auto& weak : sequences_)
    if (const auto sequence = weak.lock()) close_sequence(*sequence, callbacks);
  sequences_.clear();
  active_.clear();
  starved_.clear();
  machine_.activations = {};  // everything that lives in the backend's memory goes before the backend
  machine_.loaded = {};
  machine_.pool_memory.reset();
  machine_.backend.reset();
}

}  // namespace chai
