// The CUDA runtime calls of cuda/runtime.h on the host: memory is the heap, streams are names, work runs when it is enqueued (or as late as
// it may, simt::late), or when the graph is replayed that recorded it. A budget makes "out of memory" testable. What a device forbids while
// it records is refused here too.
#include "runtime.h"

#include <chrono>
#include <cstring>
#include <map>
#include <mutex>
#include <unordered_map>

#include "error.h"
#include "simt_fiber.h"
#include "simt_runtime.h"
#include "tensor_map.h"

namespace chai::cuda {
namespace {

struct Heap {
  std::mutex mutex;
  std::unordered_map<void*, size_t> blocks;
  std::map<const void*, size_t> pinned;
  uint64_t used = 0, total = uint64_t{4} << 30;
};
Heap& heap() {
  static Heap all;
  return all;
}

/// As cudaStreamCaptureModeThreadLocal: a call that waits or allocates breaks the recording.
void refuse_while_recording(const char* what) {
  if (simt::recording()) throw Error(Code::device_fault, std::string(what) + " while a graph is recorded");
}

void run_all_work() {
  simt::run_late([] { return false; });
}

/// Copies from and to other host memory do not outlast the call.
bool is_pinned(const void* memory) {
  const std::lock_guard hold(heap().mutex);
  const auto after = heap().pinned.upper_bound(memory);
  if (after == heap().pinned.begin()) return false;
  const auto [first, bytes] = *std::prev(after);
  return static_cast<const char*>(memory) < static_cast<const char*>(first) + bytes;
}

}  // namespace

void set_device_bytes(uint64_t total) { heap().total = total; }
uint64_t device_bytes_used() {
  const std::lock_guard hold(heap().mutex);
  return heap().used;
}

int count_devices(std::string&) { return 1; }
DeviceFacts describe_device(int index) { return open_device(index); }
DeviceFacts open_device(int) {
  DeviceFacts facts;
  facts.name = "SIMT shim";
  facts.capability = 80, facts.processors = 4, facts.shared_bytes = 99 * 1024, facts.l2_bytes = 1 << 20;
  memory_of_device(facts.free_bytes, facts.total_bytes);
  return facts;
}
void use_device(int) {}
void memory_of_device(uint64_t& free_bytes, uint64_t& total_bytes) {
  const std::lock_guard hold(heap().mutex);
  total_bytes = heap().total;
  free_bytes = heap().total > heap().used ? heap().total - heap().used : 0;
}

void* allocate_device(size_t bytes) {
  refuse_while_recording("device memory is allocated");
  Heap& h = heap();
  const std::lock_guard hold(h.mutex);
  if (h.used + bytes > h.total) return nullptr;
  void* memory = ::operator new (bytes + 1, std::align_val_t{256}, std::nothrow);
  if (!memory) return nullptr;
  std::memset(memory, 0xff, bytes);  // NaN: fresh device memory is not zero
  h.blocks[memory] = bytes;
  h.used += bytes;
  return memory;
}
void free_device(void* memory) noexcept {
  if (!memory) return;
  run_all_work();  // freeing waits for the device
  Heap& h = heap();
  const std::lock_guard hold(h.mutex);
  h.used -= h.blocks[memory];
  h.blocks.erase(memory);
  ::operator delete (memory, std::align_val_t{256});
}
void* allocate_pinned(size_t bytes) {
  refuse_while_recording("page-locked memory is allocated");
  void* memory = ::operator new (bytes, std::align_val_t{256}, std::nothrow);
  if (!memory) return nullptr;
  std::memset(memory, 0xff, bytes);
  const std::lock_guard hold(heap().mutex);
  heap().pinned[memory] = bytes;
  return memory;
}
void free_pinned(void* memory) noexcept {
  run_all_work();
  const std::lock_guard hold(heap().mutex);
  heap().pinned.erase(memory);
  ::operator delete (memory, std::align_val_t{256});
}

Stream make_stream() { return reinterpret_cast<Stream>(new char); }
void free_stream(Stream stream) noexcept { delete reinterpret_cast<char*>(stream); }
void copy_to_device(void* to, const void* from, size_t bytes, Stream stream) {
  if (is_pinned(from)) return simt::enqueue(stream, [=] { std::memcpy(to, from, bytes); });
  const auto* first = static_cast<const char*>(from);
  simt::enqueue(stream, [to, staged = std::vector<char>(first, first + bytes)] { std::memcpy(to, staged.data(), staged.size()); });
}
void copy_to_host(void* to, const void* from, size_t bytes, Stream stream) {
  simt::enqueue(stream, [=] { std::memcpy(to, from, bytes); });
  if (!is_pinned(to)) run_all_work();
}
void copy_on_device(void* to, const void* from, size_t bytes, Stream stream) {
  simt::enqueue(stream, [=] { std::memmove(to, from, bytes); });
}
void fill(void* to, int byte, size_t bytes, Stream stream) {
  simt::enqueue(stream, [=] { std::memset(to, byte, bytes); });
}
void synchronize(Stream) {
  refuse_while_recording("a stream is waited for");
  run_all_work();
}

using Clock = std::chrono::steady_clock;
struct HostEvent {
  Clock::time_point time;
  bool happened = true;
};
HostEvent& host_event(Event event) { return *reinterpret_cast<HostEvent*>(event); }
Event make_event() { return reinterpret_cast<Event>(new HostEvent{Clock::now()}); }
void free_event(Event event) noexcept { delete &host_event(event); }
void record(Event event, Stream stream) {
  host_event(event).happened = false;
  simt::enqueue(stream, [event] { host_event(event) = {Clock::now(), true}; });
}
void wait(Event event) {
  refuse_while_recording("an event is waited for");
  simt::run_late([event] { return host_event(event).happened; });
}
float milliseconds_between(Event from, Event to) {
  return std::chrono::duration<float, std::milli>(host_event(to).time - host_event(from).time).count();
}

void begin_capture(Stream stream) {
  if (!simt::begin_recording(stream)) throw Error(Code::device_fault, "a graph is being recorded already");
}
using Recorded = std::vector<std::function<void()>>;
Graph end_capture(Stream) {
  if (!simt::recording()) throw Error(Code::device_fault, "no graph is being recorded");
  return reinterpret_cast<Graph>(new Recorded(simt::end_recording()));
}
void replay(Graph graph, Stream stream) {
  refuse_while_recording("a graph is replayed");
  for (const auto& work : *reinterpret_cast<Recorded*>(graph)) simt::enqueue(stream, work);
}
void free_graph(Graph graph) noexcept { delete reinterpret_cast<Recorded*>(graph); }

bool tensor_maps_work() { return true; }
dev::TensorMap map_of_pages(const void* base, uint64_t page_bytes, uint64_t row_bytes, uint64_t pages, Element) {
  if (reinterpret_cast<uintptr_t>(base) % 16 || page_bytes % 16 || row_bytes % 16 || row_bytes < 128)
    throw Error(Code::device_fault, "a tensor map that a driver would refuse");
  return {static_cast<const unsigned char*>(base),  row_bytes, page_bytes, int(row_bytes / 2), 64,
          int(std::min<uint64_t>(pages, INT32_MAX))};
}

}  // namespace chai::cuda
