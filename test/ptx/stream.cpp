// Streams and when their work runs; see stream.h. Calls hold the runtime's lock.
#include "stream.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "memory.h"
#include "settings.h"

namespace ptx {
namespace {

struct Streams {
  uint64_t ids = 1;
  std::map<const void*, std::unique_ptr<Stream>> open;
  std::vector<std::shared_ptr<Queue>> queues;  // of open streams, and of ended ones that still have work
  Stream null;
  Streams() {
    null.id = ids++, null.blocking = true, null.queue = std::make_shared<Queue>();
    queues.push_back(null.queue);
  }
};
Streams& streams() {
  static Streams* all = new Streams;
  return *all;
}

uint64_t blocks_of(const Launch& launch) { return uint64_t(launch.grid[0]) * launch.grid[1] * launch.grid[2]; }

void check_allocated(const void* memory, size_t bytes, const char* what) {
  if (!DeviceMemory::instance().valid_range(memory, bytes))
    throw Fault(FaultKind::illegal_address,
                std::string(what) + " whose memory was freed before it ran, of " + std::to_string(bytes) + " bytes");
}

void run(const CopyWork& copy) {
  if (copy.checks_to) check_allocated(copy.to, copy.bytes, "a copy to memory");
  if (copy.checks_from) check_allocated(copy.from, copy.bytes, "a copy from memory");
  std::memcpy(copy.to, copy.staged.empty() ? copy.from : copy.staged.data(), copy.bytes);
}
void run(const FillWork& fill) {
  check_allocated(fill.to, fill.bytes, "a fill of memory");
  std::memset(fill.to, fill.byte, fill.bytes);
}
void run(const std::shared_ptr<Record>& record) {
  record->done = true;
  record->time = std::chrono::steady_clock::now();
}

std::unique_ptr<Execution> execution_of(const KernelWork& work) { return std::make_unique<Execution>(*work.kernel, work.launch); }

/// A kernel; before it, what the one behind it may do early.
void run(const KernelWork& work, std::unique_ptr<Execution> begun, Item* behind) {
  const bool was_early = begun != nullptr;
  if (!begun) begun = execution_of(work);
  if (behind && behind->early && !behind->begun) {
    const auto& next = std::get<KernelWork>(*behind->work);
    if (settings().early && blocks_of(next.launch) <= settings().early_blocks) {
      behind->begun = execution_of(next);
      behind->begun->begin();
    }
  }
  begun->finish(behind ? behind->begun.get() : nullptr);
  count_launch(work.kernel->name, was_early);
}

void run_first(Queue& queue) {
  Item item = std::move(queue.items.front());
  queue.items.pop_front();
  Item* behind = queue.items.empty() ? nullptr : &queue.items.front();
  std::visit(
      [&](const auto& work) {
        if constexpr (std::is_same_v<std::decay_t<decltype(work)>, KernelWork>)
          run(work, std::move(item.begun), behind);
        else
          run(work);
      },
      *item.work);
}

void push(Queue& queue, std::shared_ptr<const Work> work, uint64_t owner) {
  const auto* kernel = std::get_if<KernelWork>(work.get());
  const bool early = kernel && kernel->launch.early && queue.kernel_of == owner;
  queue.kernel_of = kernel ? owner : 0;
  queue.items.push_back({std::move(work), early, nullptr});
}

/// Whether a thread's recording forbids calls like cudaMalloc.
bool forbids(const Capture& capture) { return capture.global || (!capture.relaxed && capture.owner == std::this_thread::get_id()); }

template <class Which>
void break_captures(const Which& which, const char* why) {
  bool any = false;
  for (auto& [handle, stream] : streams().open)
    if (stream->capture && which(*stream->capture)) any = stream->capture->broken = true;
  if (any) throw Refusal{cudaErrorStreamCaptureUnsupported, why};
}

}  // namespace

Stream& stream_of(cudaStream_t stream) {
  if (stream == nullptr || stream == cudaStreamLegacy) {
    for (auto& [handle, other] : streams().open) {
      if (!other->capture || !other->blocking) continue;
      other->capture->broken = true;
      throw Refusal{cudaErrorStreamCaptureImplicit, "the null stream is used while a blocking stream is recorded"};
    }
    return streams().null;
  }
  const auto found = streams().open.find(stream);
  if (found == streams().open.end()) throw Refusal{cudaErrorInvalidResourceHandle, "this is no stream"};
  return *found->second;
}

Stream& make_stream(bool blocking) {
  auto stream = std::make_unique<Stream>();
  Stream& made = *stream;
  made.id = streams().ids++, made.blocking = blocking;
  made.queue = blocking ? streams().null.queue : std::make_shared<Queue>();
  auto& queues = streams().queues;
  std::erase_if(queues, [](const auto& queue) { return queue.use_count() == 1 && queue->items.empty(); });
  if (!blocking) queues.push_back(made.queue);
  streams().open[&made] = std::move(stream);
  return made;
}

void end_stream(cudaStream_t stream) { streams().open.erase(stream); }

void enqueue(Stream& stream, Work work) {
  auto shared = std::make_shared<const Work>(std::move(work));
  if (stream.capture) {
    if (stream.capture->broken) throw Refusal{cudaErrorStreamCaptureInvalidated, "the recording is broken"};
    stream.capture->works.push_back(std::move(shared));
    return;
  }
  push(*stream.queue, std::move(shared), stream.id);
  if (!settings().late) run_all(*stream.queue);
}

void replay(Stream& stream, const std::vector<std::shared_ptr<const Work>>& works) {
  const uint64_t owner = streams().ids++;
  stream.queue->kernel_of = 0;
  for (const auto& work : works) push(*stream.queue, work, owner);
  if (!settings().late) run_all(*stream.queue);
}

void run_all(Queue& queue) {
  while (!queue.items.empty()) run_first(queue);
}

void run_until(const Record& record) {
  while (!record.done && !record.queue->items.empty()) run_first(*record.queue);
}

void run_device() {
  const auto queues = streams().queues;
  for (size_t i = 0; i < queues.size(); ++i) run_all(*queues[(i + settings().schedule.seed) % queues.size()]);
}

void drop_all_work() {
  for (const auto& queue : streams().queues) {
    for (Item& item : queue->items)
      if (const auto* record = std::get_if<std::shared_ptr<Record>>(item.work.get())) run(*record);
    queue->items.clear();
  }
}

void refuse_while_capturing() { break_captures(forbids, "may not be called while this thread records a graph"); }
void refuse_while_any_captures() {
  break_captures([](const Capture&) { return true; }, "waits for all streams, and one of them is recorded");
}
void refuse_if_capturing(Stream& stream) {
  if (!stream.capture) return;
  stream.capture->broken = true;
  throw Refusal{cudaErrorStreamCaptureUnsupported, "waits for a stream that is recorded"};
}

}  // namespace ptx
