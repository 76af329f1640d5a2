// The CUDA runtime behind runtime.h. In: its calls. Out: cudart's, every failure as a chai::Error.
#include <thread>

#include "error.h"
#include "nvml.h"
#include "platform/platform.h"
#include "runtime.h"

namespace chai::cuda {
namespace {

cudaStream_t native(Stream stream) { return reinterpret_cast<cudaStream_t>(stream); }
cudaEvent_t native(Event event) { return reinterpret_cast<cudaEvent_t>(event); }

std::string version(int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); }

struct Described {
  DeviceFacts facts;
  cudaUUID_t uuid{};
  bool shared = true;  // programs side by side may use it; else only opening it tells whether another one has it
};

/// What the driver says of a device that may be asleep; all but its free memory.
Described facts_of(int index) {
  Described described;
  DeviceFacts& facts = described.facts;
  facts.index = index;
  cudaDeviceProp properties{};
  if (const cudaError_t status = cudaGetDeviceProperties(&properties, index); status != cudaSuccess) {
    facts.name = "CUDA device " + std::to_string(index);
    facts.reason = std::string("the driver cannot describe it: ") + cudaGetErrorString(status);
    cudaGetLastError();
    return described;
  }
  described.uuid = properties.uuid;
  facts.name = properties.name;
  facts.capability = properties.major * 10 + properties.minor;
  facts.processors = properties.multiProcessorCount;
  facts.shared_bytes = properties.sharedMemPerBlockOptin;
  facts.l2_bytes = uint64_t(properties.l2CacheSize);
  facts.total_bytes = properties.totalGlobalMem;
  int mode = cudaComputeModeDefault;
  cudaDeviceGetAttribute(&mode, cudaDevAttrComputeMode, index);
  described.shared = mode == cudaComputeModeDefault;
  if (facts.capability < 80)
    facts.reason = "compute capability " + std::to_string(properties.major) + "." + std::to_string(properties.minor) +
                   " is too low; 8.0 (Ampere) or later is needed";
  else if (mode == cudaComputeModeProhibited)
    facts.reason = "its compute mode forbids programs; `nvidia-smi -c DEFAULT` allows them";
  return described;
}

/// On a thread of its own: which device is current is the calling thread's affair, and to set it back would open that one as well.
void open(DeviceFacts& facts) {
  const platform::WithoutSignals quiet;
  std::thread([&] {
    size_t free_bytes = 0, total_bytes = 0;
    cudaError_t status = cudaSetDevice(facts.index);
    if (status == cudaSuccess) status = cudaMemGetInfo(&free_bytes, &total_bytes);
    if (status != cudaSuccess) facts.reason = std::string("it cannot be opened: ") + cudaGetErrorString(status);
    facts.free_bytes = free_bytes;
    cudaGetLastError();
  }).join();
}

/// After these no call of the process on the device succeeds any more, whatever it closes and loads again.
bool ends_all(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorIllegalInstruction:
    case cudaErrorHardwareStackError:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable: return true;
    default: return false;
  }
}

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clears what is not sticky
  const std::string failed = std::string("CUDA: ") + what + " failed: " + cudaGetErrorString(status);
  if (status == cudaErrorMemoryAllocation)  // of the driver's own needs: code of kernels, graphs, streams
    throw Error(Code::out_of_memory, failed + "; lower cacheTokens or maxBatch, or free the device");
  throw Error(Code::device_fault, failed + (ends_all(status) ? "; start the process again to use the device, or use device 'cpu'"
                                                             : "; close the model and load it again, or use device 'cpu'"));
}

int count_devices(std::string& why_none) {
  int count = 0, driver = 0, runtime = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
  const cudaError_t status = cudaGetDeviceCount(&count);
  cudaGetLastError();
  if (driver == 0)
    why_none = "no NVIDIA driver is installed; install one that supports CUDA " + version(runtime) + " or later";
  else if (status == cudaErrorInsufficientDriver || driver / 1000 < runtime / 1000)
    why_none =
        "the NVIDIA driver supports CUDA " + version(driver) + ", but " + version(runtime / 1000 * 1000) + " is needed; update the driver";
  else if (status != cudaSuccess || count == 0)
    why_none = std::string("the driver finds no device: ") + cudaGetErrorString(status == cudaSuccess ? cudaErrorNoDevice : status);
  return why_none.empty() ? count : 0;
}

DeviceFacts describe_device(int index) {
  Described described = facts_of(index);
  DeviceFacts& facts = described.facts;
  if (!facts.reason.empty()) return facts;
  static const std::optional<NvmlCalls> nvml = open_nvml();
  std::optional<uint64_t> free_bytes;
  if (nvml && described.shared) free_bytes = free_bytes_by_nvml(*nvml, reinterpret_cast<const unsigned char*>(described.uuid.bytes));
  if (free_bytes && *free_bytes <= facts.total_bytes)
    facts.free_bytes = *free_bytes;
  else
    open(facts);
  return facts;
}

DeviceFacts open_device(int index) {
  DeviceFacts facts = facts_of(index).facts;
  if (facts.reason.empty()) open(facts);
  return facts;
}

void use_device(int index) { check(cudaSetDevice(index), "cudaSetDevice"); }

void memory_of_device(uint64_t& free_bytes, uint64_t& total_bytes) {
  size_t free_now = 0, total = 0;
  check(cudaMemGetInfo(&free_now, &total), "cudaMemGetInfo");
  free_bytes = free_now, total_bytes = total;
}

void* allocate_device(size_t bytes) {
  void* memory = nullptr;
  const cudaError_t status = cudaMalloc(&memory, bytes ? bytes : 1);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check(status, "cudaMalloc");
  return memory;
}
void* allocate_pinned(size_t bytes) {
  void* memory = nullptr;
  if (cudaMallocHost(&memory, bytes ? bytes : 1) == cudaSuccess) return memory;
  cudaGetLastError();
  return nullptr;
}
void free_device(void* memory) noexcept { cudaFree(memory); }
void free_pinned(void* memory) noexcept { cudaFreeHost(memory); }

Stream make_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  return reinterpret_cast<Stream>(stream);
}
void free_stream(Stream stream) noexcept { cudaStreamDestroy(native(stream)); }
void copy_to_device(void* to, const void* from, size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, native(stream)), "a copy to the device");
}
void copy_to_host(void* to, const void* from, size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, native(stream)), "a copy to the host");
}
void copy_on_device(void* to, const void* from, size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, native(stream)), "a copy on the device");
}
void fill(void* to, int byte, size_t bytes, Stream stream) { check(cudaMemsetAsync(to, byte, bytes, native(stream)), "a fill"); }
void synchronize(Stream stream) { check(cudaStreamSynchronize(native(stream)), "the work before cudaStreamSynchronize"); }

Event make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreate(&event), "cudaEventCreate");
  return reinterpret_cast<Event>(event);
}
void free_event(Event event) noexcept { cudaEventDestroy(native(event)); }
void record(Event event, Stream stream) { check(cudaEventRecord(native(event), native(stream)), "cudaEventRecord"); }
void wait(Event event) { check(cudaEventSynchronize(native(event)), "the work before cudaEventSynchronize"); }
float milliseconds_between(Event from, Event to) {
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, native(from), native(to)), "cudaEventElapsedTime");
  return milliseconds;
}

void begin_capture(Stream stream) {
  check(cudaStreamBeginCapture(native(stream), cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
}
Graph end_capture(Stream stream) {
  cudaGraph_t graph = nullptr;
  check(cudaStreamEndCapture(native(stream), &graph), "cudaStreamEndCapture");
  cudaGraphExec_t executable = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "cudaGraphInstantiate");
  return reinterpret_cast<Graph>(executable);
}
void replay(Graph graph, Stream stream) {
  check(cudaGraphLaunch(reinterpret_cast<cudaGraphExec_t>(graph), native(stream)), "cudaGraphLaunch");
}
void free_graph(Graph graph) noexcept { cudaGraphExecDestroy(reinterpret_cast<cudaGraphExec_t>(graph)); }

}  // namespace chai::cuda
