// The CUDA runtime's calls on memory, streams and events. In: what the program calls. Out: work in queues, memory of the emulated device.
// Launches are in runtime_launch.cpp, graphs in runtime_graph.cpp, what a device is in runtime_device.cpp.
#include <cstring>
#include <map>

#include "memory.h"
#include "runtime_memory.h"
#include "settings.h"
#include "stream.h"

namespace ptx {
namespace {

/// Device memory and pinned memory come from the same range: this tells them apart.
struct Pinned {
  std::map<const uint8_t*, size_t> blocks;
  size_t bytes = 0;
};
Pinned& pinned() {
  static Pinned* all = new Pinned;
  return *all;
}

bool is_pinned(const void* memory) {
  const auto* at = static_cast<const uint8_t*>(memory);
  const auto after = pinned().blocks.upper_bound(at);
  if (after == pinned().blocks.begin()) return false;
  const auto& [from, bytes] = *std::prev(after);
  return at < from + bytes;
}

enum class Home { device, pinned, pageable };
Home home_of(const void* memory) {
  if (!DeviceMemory::instance().contains(reinterpret_cast<uint64_t>(memory))) return Home::pageable;
  return is_pinned(memory) ? Home::pinned : Home::device;
}

std::string words_of(const void* memory, size_t bytes) {
  char text[80];
  std::snprintf(text, sizeof text, "%zu bytes at %p", bytes, memory);
  return text;
}

/// `on_device`: where the call says it is.
Home checked(const void* memory, size_t bytes, bool on_device) {
  const Home home = home_of(memory);
  if (memory == nullptr) throw Refusal{cudaErrorInvalidValue, "a null pointer"};
  if (on_device != (home == Home::device))
    throw Refusal{cudaErrorInvalidValue, words_of(memory, bytes) + (on_device ? " are not in device memory" : " are in device memory")};
  if (home != Home::pageable && !DeviceMemory::instance().valid_range(memory, bytes))
    throw Refusal{cudaErrorInvalidValue, words_of(memory, bytes) + " are not all allocated"};
  return home;
}

void* allocate(size_t bytes) {
  void* memory = DeviceMemory::instance().allocate(bytes);
  if (!memory) throw Refusal{cudaErrorMemoryAllocation, ""};
  return memory;
}

void copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, Stream& stream) {
  if (bytes == 0) return;
  if (kind == cudaMemcpyDefault) kind = cudaMemcpyKind((home_of(from) == Home::device ? 2 : 0) | (home_of(to) == Home::device ? 1 : 0));
  if (kind < cudaMemcpyHostToDevice || kind > cudaMemcpyDeviceToDevice)
    throw Refusal{cudaErrorInvalidMemcpyDirection, "a copy of kind " + std::to_string(int(kind))};
  const Home there = checked(to, bytes, kind != cudaMemcpyDeviceToHost);
  const Home here = checked(from, bytes, kind != cudaMemcpyHostToDevice);
  if ((there == Home::pageable || here == Home::pageable) && stream.capture) {
    stream.capture->broken = true;
    throw Refusal{cudaErrorStreamCaptureUnsupported, "pageable memory in a recorded copy"};
  }
  auto* first = static_cast<uint8_t*>(to);
  const auto* source = static_cast<const uint8_t*>(from);
  if (first < source + bytes && source < first + bytes) throw Refusal{cudaErrorInvalidValue, "the two sides of a copy overlap"};
  CopyWork work{first, source, bytes, there != Home::pageable, here != Home::pageable, {}};
  if (here == Home::pageable) work.staged.assign(source, source + bytes);
  enqueue(stream, std::move(work));
  if (there == Home::pageable) run_all(*stream.queue);
}

struct EventState {
  std::shared_ptr<Record> record;  // null: never recorded
  bool captured = false;           // last recorded into a graph
  std::weak_ptr<Capture> capture;
};
std::map<const void*, std::unique_ptr<EventState>>& events() {
  static auto* all = new std::map<const void*, std::unique_ptr<EventState>>;
  return *all;
}
EventState& event_of(cudaEvent_t event) {
  const auto found = events().find(event);
  if (found == events().end()) throw Refusal{cudaErrorInvalidResourceHandle, "this is no event"};
  return *found->second;
}
void refuse_captured(const EventState& event) {
  if (!event.captured) return;
  if (const auto capture = event.capture.lock()) capture->broken = true;
  throw Refusal{cudaErrorCapturedEvent, "the event was recorded into a graph"};
}

}  // namespace

size_t device_bytes() { return DeviceMemory::instance().capacity() / 4 * 3; }
size_t device_bytes_used() { return DeviceMemory::instance().used() - pinned().bytes; }

}  // namespace ptx

using namespace ptx;

extern "C" {

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  return device_call("cudaMalloc", [&] {
    refuse_while_capturing();
    *memory = nullptr;
    if (bytes == 0) return;
    if (bytes > device_bytes() - std::min(device_bytes(), device_bytes_used())) throw Refusal{cudaErrorMemoryAllocation, ""};
    *memory = allocate(bytes);
  });
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  return device_call("cudaMallocHost", [&] {
    refuse_while_capturing();
    *memory = nullptr;
    if (bytes == 0) return;
    *memory = allocate(bytes);
    pinned().blocks[static_cast<const uint8_t*>(*memory)] = bytes;
    pinned().bytes += bytes;
  });
}
cudaError_t cudaFree(void* memory) {
  return device_call("cudaFree", [&] {
    refuse_while_capturing();
    if (!memory) return;
    if (is_pinned(memory)) throw Refusal{cudaErrorInvalidValue, "the memory is pinned; cudaFreeHost frees it"};
    run_device();
    if (!DeviceMemory::instance().release(memory)) throw Refusal{cudaErrorInvalidValue, "not what cudaMalloc gave, or freed already"};
  });
}
cudaError_t cudaFreeHost(void* memory) {
  return device_call("cudaFreeHost", [&] {
    refuse_while_capturing();
    if (!memory) return;
    const auto found = pinned().blocks.find(static_cast<const uint8_t*>(memory));
    if (found == pinned().blocks.end()) throw Refusal{cudaErrorInvalidValue, "not what cudaMallocHost gave, or freed already"};
    run_device();
    pinned().bytes -= found->second;
    pinned().blocks.erase(found);
    DeviceMemory::instance().release(memory);
  });
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  return device_call("cudaMemGetInfo", [&] {
    *total = device_bytes();
    *free_bytes = *total - std::min(*total, device_bytes_used());
  });
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return device_call("cudaMemcpyAsync", [&] { copy(to, from, bytes, kind, stream_of(stream)); });
}
cudaError_t cudaMemsetAsync(void* to, int byte, size_t bytes, cudaStream_t stream) {
  return device_call("cudaMemsetAsync", [&] {
    Stream& on = stream_of(stream);
    if (bytes == 0) return;
    checked(to, bytes, true);
    enqueue(on, FillWork{static_cast<uint8_t*>(to), byte, bytes});
  });
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return device_call("cudaStreamCreateWithFlags", [&] {
    if (flags != cudaStreamDefault && flags != cudaStreamNonBlocking) throw Refusal{cudaErrorInvalidValue, "unknown flags"};
    *stream = reinterpret_cast<cudaStream_t>(&make_stream(flags == cudaStreamDefault));
  });
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return device_call("cudaStreamDestroy", [&] {
    if (stream == nullptr) throw Refusal{cudaErrorInvalidResourceHandle, "the null stream cannot be destroyed"};
    refuse_if_capturing(stream_of(stream));
    end_stream(stream);
  });
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return device_call("cudaStreamSynchronize", [&] {
    Stream& waited = stream_of(stream);
    refuse_if_capturing(waited);
    refuse_while_capturing();
    run_all(*waited.queue);
  });
}
cudaError_t cudaDeviceSynchronize() {
  return device_call("cudaDeviceSynchronize", [] {
    refuse_while_any_captures();
    run_device();
  });
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return device_call("cudaEventCreate", [&] {
    auto state = std::make_unique<EventState>();
    *event = reinterpret_cast<cudaEvent_t>(state.get());
    events()[*event] = std::move(state);
  });
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return device_call("cudaEventDestroy", [&] {
    event_of(event);
    events().erase(event);
  });
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return device_call("cudaEventRecord", [&] {
    EventState& state = event_of(event);
    Stream& on = stream_of(stream);
    state.captured = on.capture != nullptr;
    state.capture = on.capture;
    if (on.capture) {
      if (on.capture->broken) throw Refusal{cudaErrorStreamCaptureInvalidated, "the recording is broken"};
      return;
    }
    state.record = std::make_shared<Record>();
    state.record->queue = on.queue;
    enqueue(on, state.record);
  });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return device_call("cudaEventSynchronize", [&] {
    const EventState& state = event_of(event);
    refuse_captured(state);
    refuse_while_capturing();
    if (state.record) run_until(*state.record);
  });
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  return device_call("cudaEventElapsedTime", [&] {
    const EventState &first = event_of(from), &last = event_of(to);
    refuse_captured(first);
    refuse_captured(last);
    if (!first.record || !last.record) throw Refusal{cudaErrorInvalidResourceHandle, "an event that was never recorded"};
    if (!first.record->done || !last.record->done) throw Refusal{cudaErrorNotReady, ""};
    *milliseconds = std::chrono::duration<float, std::milli>(last.record->time - first.record->time).count();
  });
}

}  // extern "C"
