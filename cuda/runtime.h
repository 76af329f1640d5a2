// The few calls of the CUDA runtime that the backend makes, so that the same backend runs on the host through the SIMT shim (test/simt).
// In: sizes, pointers, streams. Out: device memory, ordered work. Every failure is a chai::Error.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#endif

namespace chai::cuda {

struct StreamTag;
using Stream = StreamTag*;  // cudaStream_t
struct EventTag;
using Event = EventTag*;  // cudaEvent_t
struct GraphTag;
using Graph = GraphTag*;  // cudaGraphExec_t

/// What a device says of itself, or why it cannot be used.
struct DeviceFacts {
  int index = 0;
  std::string name, reason;  // reason empty: usable
  int capability = 0;        // 90 for sm_90
  int processors = 0;        // streaming multiprocessors
  size_t shared_bytes = 0;   // most dynamic shared memory of a block
  uint64_t total_bytes = 0, free_bytes = 0;
  uint64_t l2_bytes = 0;
};

/// Devices there are. Without a usable driver: none, and `why_none` says what is missing and what would mend it.
int count_devices(std::string& why_none);
/// Leaves the device asleep where its free memory is known without: an opened one keeps some hundred MB until the process ends.
DeviceFacts describe_device(int index);
/// Opens the device; `free_bytes` is what is left then. `reason` says why where it does not open.
DeviceFacts open_device(int index);
/// Makes a device current on the calling thread.
void use_device(int index);
void memory_of_device(uint64_t& free_bytes, uint64_t& total_bytes);

/// Null when there is not enough memory; other failures throw.
void* allocate_device(size_t bytes);
void* allocate_pinned(size_t bytes);  // host memory that copies run from without a staging copy
void free_device(void* memory) noexcept;
void free_pinned(void* memory) noexcept;

Stream make_stream();
void free_stream(Stream stream) noexcept;
void copy_to_device(void* to, const void* from, size_t bytes, Stream stream);
void copy_to_host(void* to, const void* from, size_t bytes, Stream stream);
void copy_on_device(void* to, const void* from, size_t bytes, Stream stream);
void fill(void* to, int byte, size_t bytes, Stream stream);
void synchronize(Stream stream);

Event make_event();
void free_event(Event event) noexcept;
void record(Event event, Stream stream);
void wait(Event event);  // the host waits
float milliseconds_between(Event from, Event to);

/// Work enqueued between begin_capture and end_capture becomes a graph instead of running.
void begin_capture(Stream stream);
Graph end_capture(Stream stream);
void replay(Graph graph, Stream stream);
void free_graph(Graph graph) noexcept;

#if defined(__CUDACC__)
/// Throws device_fault naming `what` and the runtime's words.
void check(cudaError_t status, const char* what);
#endif

}  // namespace chai::cuda
