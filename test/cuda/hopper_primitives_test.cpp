// The primitives for Hopper one by one: where a tensor copy puts a box, what a warpgroup product reads through its descriptors. When the
// prefill kernel is wrong on a device, these tell which layout is. On a device other than compute capability 9.0 it is left out.
#include <random>

#include "check.h"
#include "cuda_test.h"
#include "element.h"
#include "launch.cuh"
#include "tensor_map.h"

namespace chai::cuda {
namespace {

constexpr int lines = 64, columns = 64, threads = 128;
constexpr uint32_t page_bytes = lines * columns * 2;

/// Pages [0, count) come to shared memory one behind the other, by tensor copies. Gives their first byte.
__device__ unsigned char* bring_pages(const dev::TensorMap& pool, int count) {
  DEV_DYN_SMEM(unsigned char, memory);
  unsigned char* pages = memory + (-dev::shared_address(memory) & 1023);
  uint64_t* barrier = reinterpret_cast<uint64_t*>(pages + uint32_t(count) * page_bytes);
  if (threadIdx.x == 0) {
    dev::barrier_init(barrier, 1);
    dev::barrier_init_fence();
    dev::fence_for_products();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    dev::barrier_expect(barrier, uint32_t(count) * page_bytes);
    for (int i = 0; i < count; ++i) dev::copy_box(pages + uint32_t(i) * page_bytes, pool, barrier, 0, 0, i);
  }
  dev::barrier_wait(barrier, 0);
  return pages;
}

/// out: 16-byte words of two pages as they lie in shared memory.
template <class T>
__global__ void copy_kernel(const __grid_constant__ dev::TensorMap pool, uint4* out) {
  if constexpr (dev::has_warpgroup_products) {
    const uint4* words = reinterpret_cast<const uint4*>(bring_pages(pool, 2));
    for (unsigned i = threadIdx.x; i < 2 * page_bytes / 16; i += threads) out[i] = words[i];
  }
}

template <int N>
__device__ void write_sums(const float (&sums)[N / 2], float* out) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  for (int i = 0; i < N / 2; ++i) out[(warp * 16 + (lane >> 2) + (i >> 1 & 1) * 8) * N + i / 4 * 8 + 2 * (lane & 3) + (i & 1)] = sums[i];
}

/// out [64][N]: page 0 times the rows of the N / 64 pages behind it.
template <class T, int N>
__global__ void along_kernel(const __grid_constant__ dev::TensorMap pool, float* out) {
  if constexpr (dev::has_warpgroup_products) {
    const uint32_t pages = dev::shared_address(bring_pages(pool, 1 + N / 64));
    const uint64_t a = dev::matrix_descriptor(pages, 0, 1024), b = dev::matrix_descriptor(pages + page_bytes, 0, 1024);
    float sums[N / 2] = {};
    dev::pin(sums);
    dev::product_begin();
#pragma unroll
    for (int step = 0; step < 4; ++step)
      dev::WarpgroupProduct<T, N>::shared(sums, dev::moved(a, step * 32), dev::moved(b, step * 32), step > 0);
    dev::product_commit();
    dev::product_wait<0>();
    dev::pin(sums);
    write_sums<N>(sums, out);
  }
}

/// out [64][N]: first [64][64] (global memory) times the N / 64 pages beside each other.
template <class T, int N>
__global__ void across_kernel(const __grid_constant__ dev::TensorMap pool, const uint32_t* first, float* out) {
  if constexpr (dev::has_warpgroup_products) {
    const uint64_t b = dev::matrix_descriptor(dev::shared_address(bring_pages(pool, N / 64)), page_bytes, 1024);
    const int lane = threadIdx.x & 31, row = int(threadIdx.x >> 5) * 16 + (lane >> 2);
    uint32_t a[4][4];
    for (int step = 0; step < 4; ++step)
      for (int e = 0; e < 4; ++e) a[step][e] = first[(row + (e & 1) * 8) * 32 + step * 8 + (e >> 1) * 4 + (lane & 3)];
    float sums[N / 2] = {};
    dev::pin(sums);
    dev::product_begin();
#pragma unroll
    for (int step = 0; step < 4; ++step) dev::WarpgroupProduct<T, N>::registers(sums, a[step], dev::moved(b, step * 2048), true);
    dev::product_commit();
    dev::product_wait<0>();
    dev::pin(sums);
    write_sums<N>(sums, out);
  }
}

struct Pages {
  std::vector<uint16_t> bits;
  std::vector<double> values;
  Upload<uint16_t> device;
  dev::TensorMap map;
  Pages(int count, Element type, unsigned seed) : bits(size_t(count * lines * columns)), values(bits.size()) {
    std::minstd_rand random(seed);
    std::uniform_real_distribution<float> numbers(-1, 1);
    for (size_t i = 0; i < bits.size(); ++i) {
      bits[i] = type == Element::float16 ? float16_of_float(numbers(random)) : bfloat16_of_float(numbers(random));
      values[i] = type == Element::float16 ? float_of_float16(bits[i]) : float_of_bfloat16(bits[i]);
    }
    device = Upload<uint16_t>(bits);
    map = map_of_pages(device.get(), page_bytes, columns * 2, uint64_t(count), type);
  }
  double at(int page, int row, int column) const { return values[size_t((page * lines + row) * columns + column)]; }
};

constexpr size_t shared_bytes = 1024 + 3 * page_bytes + 16;

TEST(cuda_hopper_a_box_lies_swizzled) {
  needs_hopper();
  for (unsigned seed = 0; seed < 2; ++seed) {
    set_schedule(seed);
    const Pages pages(2, Element::float16, 1);
    const Upload<uint16_t> out(std::vector<uint16_t>(pages.bits.size(), 0xffff));
    launch(copy_kernel<__half>, {dim3(1), dim3(threads), shared_bytes, nullptr}, pages.map, reinterpret_cast<uint4*>(out.get()));
    const std::vector<uint16_t> got = out.read();
    int wrong = 0;
    for (int page = 0; page < 2; ++page)
      for (int row = 0; row < lines; ++row)
        for (int column = 0; column < columns; ++column) {
          const int place = (page * lines + row) * columns + ((column / 8 ^ row % 8) * 8 + column % 8);
          wrong += got[size_t(place)] != pages.bits[size_t((page * lines + row) * columns + column)];
        }
    CHECK(wrong == 0);
  }
  set_schedule(0);
}

/// Largest error of `out` against second(k, n) weighed by the first page's rows.
template <class Second>
double product_error(const std::vector<float>& out, const Pages& first, int n_count, Second second) {
  double worst = 0;
  for (int m = 0; m < 64; ++m)
    for (int n = 0; n < n_count; ++n) {
      double sum = 0;
      for (int k = 0; k < 64; ++k) sum += first.at(0, m, k) * second(k, n);
      const double error = std::abs(double(out[size_t(m * n_count + n)]) - sum);
      if (!(error <= worst)) worst = std::isnan(error) ? INFINITY : error;
    }
  return worst;
}

template <class T, int N>
void check_products(Element type) {
  const Upload<float> out(std::vector<float>(64 * N, NAN));
  const Launch how{dim3(1), dim3(threads), shared_bytes, nullptr};
  const Pages along(1 + N / 64, type, 2);
  launch(along_kernel<T, N>, how, along.map, out.get());
  CHECK(product_error(out.read(), along, N, [&](int k, int n) { return along.at(1 + n / 64, n % 64, k); }) < 1e-4);
  const Pages first(1, type, 3), across(N / 64, type, 4);
  launch(across_kernel<T, N>, how, across.map, reinterpret_cast<const uint32_t*>(first.device.get()), out.get());
  CHECK(product_error(out.read(), first, N, [&](int k, int n) { return across.at(n / 64, k, n % 64); }) < 1e-4);
}

TEST(cuda_hopper_products) {
  needs_hopper();
  for (unsigned seed = 0; seed < 4; ++seed) {
    set_schedule(seed);
    check_products<__half, 64>(Element::float16);
    check_products<__half, 128>(Element::float16);
    check_products<__nv_bfloat16, 64>(Element::bfloat16);
    check_products<__nv_bfloat16, 128>(Element::bfloat16);
  }
  set_schedule(0);
}

}  // namespace
}  // namespace chai::cuda
