// What every call of the emulated runtime goes through; see calls.h. Also the calls that tell of errors, and the report at the end.
#include "calls.h"

#include <malloc.h>

#include <cstdio>
#include <cstdlib>
#include <set>

#include "fault.h"
#include "settings.h"
#include "stream.h"

namespace ptx {
namespace {

struct Counts {
  uint64_t launches = 0, early = 0, faults = 0;
  std::set<std::string> kernels;
};

struct State {
  std::recursive_mutex mutex;
  cudaError_t sticky = cudaSuccess;
  Counts counts;
};

void report();

/// Never destroyed: what ends after main() calls the runtime, too.
State& state() {
  static State* all = [] {
    if (!settings().report.empty()) std::atexit(report);
    mallopt(M_MMAP_THRESHOLD, 64 << 20);  // every block of a grid has its memory: not each time from the system
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    return new State;
  }();
  return *all;
}

void report() {
  const std::lock_guard hold(state().mutex);
  const Counts& counts = state().counts;
  std::string line = "{\"launches\":" + std::to_string(counts.launches) + ",\"early\":" + std::to_string(counts.early) +
                     ",\"faults\":" + std::to_string(counts.faults) + ",\"kernels\":[";
  for (const auto& name : counts.kernels) line += (line.back() == '[' ? "\"" : ",\"") + name + "\"";
  line += "]}\n";
  if (FILE* file = std::fopen(settings().report.c_str(), "a")) {
    std::fwrite(line.data(), 1, line.size(), file);
    std::fclose(file);
  }
}

thread_local cudaError_t last_error = cudaSuccess;

cudaError_t error_of(FaultKind kind) {
  switch (kind) {
    case FaultKind::illegal_address: return cudaErrorIllegalAddress;
    case FaultKind::misaligned_address: return cudaErrorMisalignedAddress;
    case FaultKind::illegal_instruction: return cudaErrorIllegalInstruction;
    case FaultKind::deadlock: return cudaErrorLaunchTimeout;
    case FaultKind::trap:
    case FaultKind::hazard: break;
  }
  return cudaErrorLaunchFailure;
}

/// No work runs on the device any more.
cudaError_t fail(cudaError_t error, const char* name, const char* why) {
  std::fprintf(stderr, "ptx: %s (seen by %s)\n", why, name);
  state().sticky = error;
  ++state().counts.faults;
  drop_all_work();
  return error;
}

cudaError_t outcome_of(const char* name, void (*body)(void*), void* context) {
  try {
    body(context);
    return cudaSuccess;
  } catch (const Refusal& refusal) {
    if (!refusal.why.empty()) std::fprintf(stderr, "ptx: %s: %s\n", name, refusal.why.c_str());
    return refusal.error;
  } catch (const Fault& fault) {
    return fail(error_of(fault.kind), name, fault.what());
  } catch (const Unsupported& unsupported) {
    return fail(cudaErrorInvalidPtx, name, unsupported.what());
  } catch (const std::exception& other) {
    return fail(cudaErrorUnknown, name, other.what());
  }
}

}  // namespace

std::recursive_mutex& one_call() { return state().mutex; }

void count_launch(const std::string& kernel, bool begun_early) {
  Counts& counts = state().counts;
  ++counts.launches;
  counts.early += begun_early;
  counts.kernels.insert(kernel);
}

namespace detail {
cudaError_t guarded(const char* name, void (*body)(void*), void* context, bool touches_device) {
  const std::lock_guard hold(state().mutex);
  const cudaError_t error = touches_device && state().sticky != cudaSuccess ? state().sticky : outcome_of(name, body, context);
  if (error != cudaSuccess && error != cudaErrorNotReady) last_error = error;
  return error;
}
}  // namespace detail

}  // namespace ptx

extern "C" {

cudaError_t cudaGetLastError() {
  const std::lock_guard hold(ptx::one_call());
  const cudaError_t error = ptx::state().sticky != cudaSuccess ? ptx::state().sticky : ptx::last_error;
  ptx::last_error = cudaSuccess;
  return error;
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidDeviceFunction: return "invalid device function";
    case cudaErrorInvalidMemcpyDirection: return "invalid copy direction for memcpy";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorMisalignedAddress: return "misaligned address";
    case cudaErrorIllegalInstruction: return "an illegal instruction was encountered";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    case cudaErrorLaunchTimeout: return "the launch timed out and was terminated";
    case cudaErrorInvalidPtx: return "a PTX JIT compilation failed";
    case cudaErrorNoKernelImageForDevice: return "no kernel image is available for execution on the device";
    case cudaErrorNotSupported: return "operation not supported";
    case cudaErrorIllegalState: return "the operation cannot be performed in the present state";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureImplicit: return "operation would make the legacy stream depend on a capturing blocking stream";
    case cudaErrorStreamCaptureWrongThread: return "attempt to terminate a thread-local capture sequence from another thread";
    case cudaErrorCapturedEvent: return "operation not permitted on an event last recorded in a capturing stream";
    default: return "unknown error";
  }
}

}  // extern "C"
