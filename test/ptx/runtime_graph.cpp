// Graphs: recording a stream and replaying it. In: what is enqueued while a stream records. Out: a list of work that keeps its parameters.
#include <map>

#include "stream.h"

namespace ptx {
namespace {

using Works = std::vector<std::shared_ptr<const Work>>;

/// Graphs and executable graphs: what was queued of them outlives them.
std::map<const void*, std::unique_ptr<Works>>& graphs() {
  static auto* all = new std::map<const void*, std::unique_ptr<Works>>;
  return *all;
}
void* add(Works works) {
  auto graph = std::make_unique<Works>(std::move(works));
  void* handle = graph.get();
  graphs()[handle] = std::move(graph);
  return handle;
}
Works& works_of(const void* graph) {
  const auto found = graphs().find(graph);
  if (found == graphs().end()) throw Refusal{cudaErrorInvalidValue, "this is no graph, or it was destroyed"};
  return *found->second;
}

Works end_capture(Stream& stream) {
  if (!stream.capture) throw Refusal{cudaErrorIllegalState, "the stream is not recorded"};
  if (!stream.capture->relaxed && stream.capture->owner != std::this_thread::get_id())
    throw Refusal{cudaErrorStreamCaptureWrongThread, "another thread began to record"};
  const auto capture = std::move(stream.capture);
  stream.capture = nullptr;
  if (capture->broken) throw Refusal{cudaErrorStreamCaptureInvalidated, "a call that may not be recorded broke the recording"};
  return std::move(capture->works);
}

}  // namespace
}  // namespace ptx

using namespace ptx;

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return device_call("cudaStreamBeginCapture", [&] {
    if (stream == nullptr || stream == cudaStreamLegacy)
      throw Refusal{cudaErrorStreamCaptureUnsupported, "the null stream cannot be recorded"};
    Stream& recorded = stream_of(stream);
    if (recorded.capture) throw Refusal{cudaErrorIllegalState, "the stream is recorded already"};
    recorded.capture = std::make_shared<Capture>();
    recorded.capture->global = mode == cudaStreamCaptureModeGlobal;
    recorded.capture->relaxed = mode == cudaStreamCaptureModeRelaxed;
    recorded.capture->owner = std::this_thread::get_id();
  });
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  return device_call("cudaStreamEndCapture", [&] {
    *graph = nullptr;
    *graph = static_cast<cudaGraph_t>(add(end_capture(stream_of(stream))));
  });
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags) {
  return device_call("cudaGraphInstantiate", [&] {
    if (flags != 0) throw Refusal{cudaErrorNotSupported, "flags are not known here"};
    *executable = static_cast<cudaGraphExec_t>(add(works_of(graph)));
  });
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  return device_call("cudaGraphLaunch", [&] {
    Stream& on = stream_of(stream);
    if (on.capture) {
      on.capture->broken = true;
      throw Refusal{cudaErrorStreamCaptureUnsupported, "a graph within a graph is not known here"};
    }
    replay(on, works_of(executable));
  });
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return device_call("cudaGraphDestroy", [&] {
    works_of(graph);
    graphs().erase(graph);
  });
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  return device_call("cudaGraphExecDestroy", [&] {
    works_of(executable);
    graphs().erase(executable);
  });
}

}  // extern "C"
