// Does this machine's compiler make a program that runs on its device? No code of the library and no inline assembly. Out: one line of
// facts; exit 1 when a result is wrong or a call fails.
#include <cuda_runtime.h>

#include <cstdio>
#include <vector>

__global__ void add_kernel(const float* a, float* b, int count) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) b[i] += 2 * a[i];
}

bool worked(cudaError_t status, const char* what) {
  if (status != cudaSuccess) std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
  return status == cudaSuccess;
}

int main() {
  constexpr int count = 1 << 20;
  int driver = 0, runtime = 0;
  cudaDeviceProp facts{};
  float *a = nullptr, *b = nullptr;
  std::vector<float> x(count), y(count, 1.0f);
  for (int i = 0; i < count; ++i) x[size_t(i)] = float(i % 1000);
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (!worked(cudaGetDeviceProperties(&facts, 0), "device 0")) return 1;
  std::printf("%s, sm_%d%d, %d multiprocessors, L2 %d MB, %.1f GB, %zu kB shared a block, driver %d, runtime %d\n", facts.name, facts.major,
              facts.minor, facts.multiProcessorCount, facts.l2CacheSize >> 20, double(facts.totalGlobalMem) / 1e9,
              facts.sharedMemPerBlockOptin / 1024, driver, runtime);
  if (!worked(cudaMalloc(&a, count * sizeof(float)), "cudaMalloc") || !worked(cudaMalloc(&b, count * sizeof(float)), "cudaMalloc"))
    return 1;
  cudaMemcpy(a, x.data(), count * sizeof(float), cudaMemcpyHostToDevice);
  cudaMemcpy(b, y.data(), count * sizeof(float), cudaMemcpyHostToDevice);
  add_kernel<<<(count + 255) / 256, 256>>>(a, b, count);
  if (!worked(cudaGetLastError(), "launch") || !worked(cudaDeviceSynchronize(), "kernel")) return 1;
  cudaMemcpy(y.data(), b, count * sizeof(float), cudaMemcpyDeviceToHost);
  for (int i = 0; i < count; ++i)
    if (y[size_t(i)] != 1 + 2 * float(i % 1000)) {
      std::fprintf(stderr, "element %d is %f\n", i, double(y[size_t(i)]));
      return 1;
    }
  std::puts("a kernel ran and its results are right");
  return 0;
}
