// cuBLAS at run time; see cublas.h. Numbers are those of cublas_api.h and library_types.h, the same in 12 and 13.
#include "cublas.h"
#include "error.h"
#include "platform/platform.h"

namespace chai::cuda {
namespace {

constexpr int success = 0, transposed = 1, not_transposed = 0;
constexpr int float32_type = 0, float16_type = 2, bfloat16_type = 14, compute_float32 = 68, any_algorithm = -1;
constexpr int sums_in_float32 = 16;  // CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION

/// What NVIDIA recommends: smaller ones rule out the fastest kernels.
size_t workspace_bytes(const DeviceFacts& device) { return size_t{device.capability >= 90 ? 32u : 8u} << 20; }

/// "12.4.5" of 120405.
std::string words_of(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." + std::to_string(version % 100);
}

}  // namespace

std::unique_ptr<Cublas> Cublas::open(bool wanted, [[maybe_unused]] const DeviceFacts& device) {
  if (!wanted) return std::unique_ptr<Cublas>(new Cublas(CublasState::switched_off, "cuBLAS is switched off"));
#if defined(__CUDACC__)
  return open({"libcublas.so.13", "libcublas.so.12", "cublas64_13.dll", "cublas64_12.dll"}, device);
#else
  return std::unique_ptr<Cublas>(new Cublas(CublasState::not_installed, "cuBLAS needs a GPU"));
#endif
}

std::unique_ptr<Cublas> Cublas::open(const std::vector<std::string>& names, const DeviceFacts& device) {
  const auto refuse = [](CublasState state, std::string why) { return std::unique_ptr<Cublas>(new Cublas(state, std::move(why))); };
  std::string why_not;
  void* library = nullptr;
  for (size_t i = 0; i < names.size() && !library; ++i) {
    std::string why;
    library = platform::open_library(names[i].c_str(), why);
    if (i == 0) why_not = why;
  }
  if (!library) return refuse(CublasState::not_installed, "no cuBLAS: " + why_not);
  CublasCalls calls;
  std::string missing;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(platform::find_function(library, name));
    if (!function) missing = name;
  };
  find(calls.create, "cublasCreate_v2");
  find(calls.destroy, "cublasDestroy_v2");
  find(calls.version, "cublasGetVersion_v2");
  find(calls.set_stream, "cublasSetStream_v2");
  find(calls.set_workspace, "cublasSetWorkspace_v2");
  find(calls.set_math_mode, "cublasSetMathMode");
  find(calls.gemm, "cublasGemmEx");
  if (!missing.empty()) return refuse(CublasState::lacks_function, "cuBLAS is not used: it has no " + missing);
  return std::make_unique<Cublas>(calls, device);
}

Cublas::Cublas(const CublasCalls& calls, const DeviceFacts& device) : calls_(calls) {
  int version = 0;
  if (const int status = calls_.create(&handle_); status != success) {
    handle_ = nullptr;
    give_up(CublasState::call_failed, "cublasCreate gave status " + std::to_string(status));
  } else if (calls_.version(handle_, &version) != success || (version / 10000 != 12 && version / 10000 != 13)) {
    give_up(CublasState::other_version, "its version is " + std::to_string(version) + ", 12 and 13 are known");
  } else if (calls_.set_math_mode(handle_, sums_in_float32) != success) {
    give_up(CublasState::call_failed, "cublasSetMathMode failed");
  } else {
    take_workspace(device);
  }
  if (ready()) description_ = "cuBLAS " + words_of(version);
}

void Cublas::take_workspace(const DeviceFacts& device) {
  try {
    workspace_ = DeviceArray<unsigned char>(workspace_bytes(device), "cuBLAS");
  } catch (const Error& error) {
    if (error.code != Code::out_of_memory) throw;
    give_up(CublasState::no_memory, error.what());
  }
}

Cublas::~Cublas() {
  if (handle_) calls_.destroy(handle_);
}

void Cublas::give_up(CublasState state, std::string why) {
  state_ = state;
  description_ = "cuBLAS is not used: " + why;
}

/// A stream brings the library's own workspace along: ours is given again.
bool Cublas::take_stream(Stream stream) {
  if (has_stream_ && stream == stream_) return true;
  stream_ = stream;
  has_stream_ =
      calls_.set_stream(handle_, stream) == success && calls_.set_workspace(handle_, workspace_.get(), workspace_.count()) == success;
  return has_stream_;
}

bool Cublas::multiply(const LibraryProduct& p, Stream stream) {
  if (!ready()) return false;
  if (!take_stream(stream)) {
    give_up(CublasState::call_failed, "it refused the stream or the workspace");
    return false;
  }
  // cuBLAS counts by columns: a row-major matrix is its own transpose there, and to^T = weight * from^T.
  const float one = 1, beta = p.add ? 1 : 0;
  const int type = p.type == Element::bfloat16 ? bfloat16_type : float16_type;
  const int status =
      calls_.gemm(handle_, transposed, not_transposed, p.columns, p.rows, p.width, &one, p.weight, type, int(p.weight_stride), p.from, type,
                  int(p.from_stride), &beta, p.to, p.floats ? float32_type : type, int(p.to_stride), compute_float32, any_algorithm);
  if (status == success) return true;
  give_up(CublasState::call_failed, "cublasGemmEx gave status " + std::to_string(status));
  return false;
}

}  // namespace chai::cuda
