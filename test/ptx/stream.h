// Streams: work that waits for something to wait for it. In: work. Out: the same, run as late as a device may, in the order of its stream.
#pragma once
#include <chrono>
#include <deque>
#include <memory>
#include <thread>
#include <variant>
#include <vector>

#include "calls.h"
#include "warp.h"

namespace ptx {

struct Queue;

struct KernelWork {
  const Kernel* kernel;
  Launch launch;
};
struct CopyWork {
  uint8_t* to;
  const uint8_t* from;
  size_t bytes;
  bool checks_to, checks_from;  // allocated by the runtime, and still so when the copy runs
  std::vector<uint8_t> staged;  // what pageable memory held at the call
};
struct FillWork {
  uint8_t* to;
  int byte;
  size_t bytes;
};
/// An event's time, once it has come.
struct Record {
  std::shared_ptr<Queue> queue;
  bool done = false;
  std::chrono::steady_clock::time_point time;
};
using Work = std::variant<KernelWork, CopyWork, FillWork, std::shared_ptr<Record>>;

struct Item {
  std::shared_ptr<const Work> work;
  bool early;  // directly behind a kernel of the same stream or replay, and may be early
  std::unique_ptr<Execution> begun;
};
struct Queue {
  std::deque<Item> items;
  uint64_t kernel_of = 0;  // stream or replay whose kernel was queued last; 0: no kernel came last
};

struct Capture {
  bool global = false, relaxed = false, broken = false;
  std::thread::id owner;
  std::vector<std::shared_ptr<const Work>> works;
};
struct Stream {
  uint64_t id = 0;
  bool blocking = false;  // in order with the null stream: they share a queue
  std::shared_ptr<Queue> queue;
  std::shared_ptr<Capture> capture;
};

/// Null is the legacy default stream. Throws Refusal.
Stream& stream_of(cudaStream_t stream);
Stream& make_stream(bool blocking);
/// Its work still runs when something waits for the device.
void end_stream(cudaStream_t stream);

/// To the graph being recorded, or to the queue.
void enqueue(Stream& stream, Work work);
/// All works of a graph, without what may begin early across its ends.
void replay(Stream& stream, const std::vector<std::shared_ptr<const Work>>& works);

void run_all(Queue& queue);
void run_until(const Record& record);
/// Work of all streams.
void run_device();
/// After a fault: events count as come.
void drop_all_work();

/// Refuses a call of this thread that may not be made while it records a graph; the recording is broken then.
void refuse_while_capturing();
/// The same for a call that waits for all streams, whoever records.
void refuse_while_any_captures();
/// The same for waiting for one that records.
void refuse_if_capturing(Stream& stream);

}  // namespace ptx
