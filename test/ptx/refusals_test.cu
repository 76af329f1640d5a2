// That the emulated device refuses what a real one, or compute-sanitizer, would: small kernels, each with one fault. In: a kernel in a
// process of its own, since a fault ends all work on a device. Out: the error of the runtime, and words that name the fault.
#include <sys/wait.h>
#include <unistd.h>

#include <string>

#include "check.h"
#include "cuda_test.h"
#include "dev.cuh"
#include "launch.cuh"
#include "settings.h"

namespace chai::cuda {
namespace {

struct Outcome {
  int status;  // cudaError_t
  std::string words;
};

/// What `body` launches, whatever the environment says.
template <class Body>
Outcome in_a_process(Body body, bool hazards = false) {
  int ends[2];
  if (pipe(ends) != 0) return {-1, "no pipe"};
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    dup2(ends[1], 2);
    auto& settings = const_cast<ptx::Settings&>(ptx::settings());  // of this process alone
    settings.late = settings.early = true;
    settings.schedule = {};
    settings.schedule.check_hazards = hazards;
    try {
      body();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "%s\n", error.what());
      _exit(98);
    }
    const cudaError_t launched = cudaGetLastError(), ran = cudaDeviceSynchronize();
    _exit(int(ran != cudaSuccess ? ran : launched) % 250);
  }
  close(ends[1]);
  std::string words;
  char piece[4096];
  for (ssize_t n; (n = read(ends[0], piece, sizeof piece)) > 0;) words.append(piece, size_t(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, words};
}

bool says(const Outcome& outcome, const char* words) {
  const bool found = outcome.words.find(words) != std::string::npos;
  if (!found) std::printf("  it said (%d): %s\n", outcome.status, outcome.words.c_str());
  return found;
}

template <class T>
T* device_memory(size_t count) {
  void* memory = nullptr;
  cudaMalloc(&memory, count * sizeof(T));
  return static_cast<T*>(memory);
}

__global__ void copy(const int* from, int* to, int count) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) to[i] = from[i];
}
__global__ void copy_fours(const int* from, int* to) {
  *reinterpret_cast<int4*>(to + 4 * threadIdx.x) = *reinterpret_cast<const int4*>(from + 4 * threadIdx.x);
}
template <bool barrier>
__global__ void reverse(int* values) {
  __shared__ int shared[256];
  shared[threadIdx.x] = values[threadIdx.x];
  if (barrier) __syncthreads();
  values[threadIdx.x] = shared[255 - threadIdx.x];
}
template <bool barrier>
__global__ void swap_neighbours(int* values) {
  __shared__ int shared[32];
  shared[threadIdx.x] = values[threadIdx.x];
  if (barrier) __syncwarp();
  values[threadIdx.x] = shared[threadIdx.x ^ 1];
}
template <bool wait>
__global__ void copy_through_shared(const int4* from, int4* to) {
  __shared__ int4 shared[32];
  dev::cp_async16(&shared[threadIdx.x], from + threadIdx.x);
  dev::cp_async_commit();
  if (wait) dev::cp_async_wait<0>();
  to[threadIdx.x] = shared[threadIdx.x];
}
__global__ void half_a_barrier(int* values) {
  if (threadIdx.x < 32) __syncthreads();
  if (threadIdx.x >= 32) return;
  __syncthreads();
  if (threadIdx.x < 16)
    __syncwarp();  // names lanes that do not come
  else
    values[threadIdx.x] = __shfl_xor_sync(0xffffffffu, int(threadIdx.x), 1);
}
__global__ void beyond_shared(int* values, int at) {
  extern __shared__ int dynamic[];
  dynamic[at + int(threadIdx.x)] = 1;
  __syncthreads();
  values[threadIdx.x] = dynamic[threadIdx.x];
}
/// What a hand-over between blocks may lack.
enum Lack { nothing, fence_before, barrier_before, fence_after, barrier_after, atomic_count, plain_loads };
/// Every block leaves its threads' numbers; the one that comes last adds all of them up.
template <Lack lack>
__global__ void add_up(int* left, int* count, int* total) {
  __shared__ int before;
  const int threads = int(blockDim.x), self = int(threadIdx.x);
  left[int(blockIdx.x) * threads + self] = self;
  if (lack != fence_before) __threadfence();
  if (lack != barrier_before) __syncthreads();
  if (self == 0) {
    if (lack == atomic_count)
      before = *count, *count = before + 1;
    else
      before = atomicAdd(count, 1);
  }
  if (lack == barrier_after)
    before = __shfl_sync(dev::all_lanes, self == 0 ? before : int(gridDim.x) - 1, 0);
  else
    __syncthreads();
  if (before != int(gridDim.x) - 1) return;
  if (self == 0) *count = 0;  // behind its own atomic: for the next launch
  if (lack != fence_after) __threadfence();
  int sum = 0;
  for (int b = 0; b < int(gridDim.x); ++b) {
    const int* from = left + b * threads + (self + 1) % threads;
    sum += lack == plain_loads ? __ldg(from) : __ldcg(from);
  }
  atomicAdd(total, sum);
}
__global__ void all_to_one_place(int* value) { *value = int(blockIdx.x); }
__global__ void shift_in_place(int* values) {  // reads what the next block writes
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  values[i] = values[i + 1];
}
template <bool barrier>
__global__ void reverse_in_place(int* values) {
  const int value = values[255 - int(threadIdx.x)];
  if (barrier) __syncthreads();
  values[threadIdx.x] = value;
}
template <bool in_order>
__global__ void let_start(int* value) {
  if (!in_order) dev::let_next_kernel_start();
  dev::wait_for_previous_kernel();
  if (in_order) dev::let_next_kernel_start();
  *value = 1;
}
__global__ void set_to(int* value, int to) {
  dev::wait_for_previous_kernel();
  *value = to;
}
/// Adds to what the kernel before wrote; `late`: reads it where it may be missing yet.
template <bool early_read>
__global__ void take_from(const int* value, int* to) {
  int read = early_read ? *reinterpret_cast<const volatile int*>(value) : 0;
  dev::wait_for_previous_kernel();
  if (!early_read) read = *reinterpret_cast<const volatile int*>(value);
  *to = read;
}

}  // namespace

TEST(ptx_refuses_memory_that_is_not_allocated) {
  const auto outcome = in_a_process([] { copy<<<1, 64>>>(device_memory<int>(63), device_memory<int>(64), 64); });
  CHECK(outcome.status == cudaErrorIllegalAddress % 250);
  CHECK(says(outcome, "read of 4 bytes") && says(outcome, "(refusals_test.cu:") && says(outcome, "thread 63"));
  CHECK(in_a_process([] { copy<<<1, 64>>>(device_memory<int>(64), device_memory<int>(64), 64); }).status == 0);
}

TEST(ptx_refuses_memory_that_was_freed) {
  const auto outcome = in_a_process([] {
    int *gone = device_memory<int>(64), *to = device_memory<int>(64);
    cudaFree(gone);
    copy<<<1, 64>>>(gone, to, 64);
  });
  CHECK(outcome.status == cudaErrorIllegalAddress % 250 && says(outcome, "not allocated"));
}

TEST(ptx_refuses_addresses_that_are_not_aligned) {
  const auto outcome = in_a_process([] { copy_fours<<<1, 4>>>(device_memory<int>(32) + 1, device_memory<int>(32)); });
  CHECK(outcome.status == cudaErrorMisalignedAddress % 250 && says(outcome, "16 bytes") && says(outcome, "not aligned"));
}

TEST(ptx_refuses_shared_memory_without_barriers) {
  const auto run = [](auto kernel, int threads) {
    return in_a_process([&] { kernel<<<1, unsigned(threads)>>>(device_memory<int>(256)); }, true);
  };
  CHECK(says(run(reverse<false>, 256), "with nothing between that orders them"));
  CHECK(run(reverse<true>, 256).status == 0);
  CHECK(says(run(swap_neighbours<false>, 32), "another lane of the warp wrote"));
  CHECK(run(swap_neighbours<true>, 32).status == 0);
}

TEST(ptx_refuses_device_memory_that_nothing_orders) {
  const auto handed_over = [](auto kernel) {
    return in_a_process(
        [&] {
          int *left = device_memory<int>(4 * 64), *count = device_memory<int>(1), *total = device_memory<int>(1), result = 0;
          fill(count, 0, 4, nullptr);
          fill(total, 0, 4, nullptr);
          for (int again = 0; again < 2; ++again) kernel<<<4, 64>>>(left, count, total);
          copy_to_host(&result, total, 4, nullptr);
          synchronize(nullptr);
          _exit(result == 2 * 4 * 63 * 32 ? 0 : 99);
        },
        true);
  };
  const char* const unordered = "with nothing between that orders them";
  CHECK(handed_over(add_up<nothing>).status == 0);
  CHECK(says(handed_over(add_up<fence_before>), unordered));
  CHECK(says(handed_over(add_up<barrier_before>), unordered));
  CHECK(says(handed_over(add_up<fence_after>), unordered));
  CHECK(says(handed_over(add_up<barrier_after>), unordered));
  CHECK(says(handed_over(add_up<atomic_count>), unordered));
  CHECK(says(handed_over(add_up<plain_loads>), "wrote in this very grid"));

  const auto run = [](auto kernel, unsigned blocks, unsigned threads) {
    return in_a_process([&] { kernel<<<blocks, threads>>>(device_memory<int>(257)); }, true);
  };
  CHECK(says(run(all_to_one_place, 2, 1), "block 0 wrote") && run(all_to_one_place, 1, 1).status == 0);
  CHECK(says(run(shift_in_place, 4, 1), "block 0 read"));
  CHECK(says(run(shift_in_place, 1, 32), "another lane of the warp read"));
  CHECK(says(run(reverse_in_place<false>, 1, 256), unordered) && run(reverse_in_place<true>, 1, 256).status == 0);
}

TEST(ptx_copies_land_when_they_are_waited_for) {
  const auto run = [](auto kernel) {
    return in_a_process([&] {
      auto *from = device_memory<int4>(32), *to = device_memory<int4>(32);
      fill(from, 7, 512, nullptr);
      kernel<<<1, 32>>>(from, to);
      int4 first{};
      copy_to_host(&first, to, sizeof first, nullptr);
      synchronize(nullptr);
      if (first.x != 0x07070707) _exit(99);
    });
  };
  CHECK(run(copy_through_shared<true>).status == 0);
  CHECK(run(copy_through_shared<false>).status == 99);
}

TEST(ptx_refuses_collectives_whose_lanes_do_not_come) {
  const auto outcome = in_a_process([] { half_a_barrier<<<1, 64>>>(device_memory<int>(64)); });
  CHECK(outcome.status != 0 && says(outcome, "wait for each other"));
}

TEST(ptx_refuses_launches_that_a_device_refuses) {
  CHECK(says(in_a_process([] { copy<<<1, 1025>>>(nullptr, nullptr, 0); }), "ptx:"));
  CHECK(says(in_a_process([] { copy<<<0, 32>>>(nullptr, nullptr, 0); }), "ptx:"));
  CHECK(says(in_a_process([] { beyond_shared<<<1, 32, 50 * 1024>>>(device_memory<int>(32), 0); }), "ptx:"));
  CHECK(in_a_process([] { beyond_shared<<<1, 32, 128>>>(device_memory<int>(32), 0); }).status == 0);
  CHECK(says(in_a_process([] { beyond_shared<<<1, 32, 128>>>(device_memory<int>(32), 1); }), "of shared memory"));
}

TEST(ptx_starts_early_kernels_before_the_one_ahead) {
  needs_hopper();  // as early launches do
  const auto value_seen = [](auto kernel) {
    return in_a_process([&] {
             int *value = device_memory<int>(1), *seen = device_memory<int>(1), result = -1;
             fill(value, 0, 4, nullptr);
             const Launch how{dim3(1), dim3(1), 0, nullptr, true};
             launch(set_to, how, value, 5);
             launch(kernel, how, static_cast<const int*>(value), seen);
             copy_to_host(&result, seen, 4, nullptr);
             synchronize(nullptr);
             _exit(result == 5 ? 0 : 99);
           })
        .status;
  };
  CHECK(value_seen(take_from<false>) == 0);
  CHECK(value_seen(take_from<true>) == 99);
}

TEST(ptx_refuses_early_kernels_that_do_not_wait) {
  needs_hopper();
  const auto run = [](auto first, auto... more) {
    return in_a_process(
        [&] {
          int* value = device_memory<int>(1);
          const Launch how{dim3(1), dim3(1), 0, nullptr, true};
          launch(set_to, how, value, 5);
          launch(first, how, value);
          (launch(more, how, static_cast<const int*>(value), value + 1), ...);
        },
        true);
  };
  CHECK(run(let_start<true>).status == 0);
  CHECK(says(run(let_start<false>), "lets the next kernel begin before"));
  CHECK(says(run(let_start<true>, take_from<true>), "began early, before its griddepcontrol.wait"));
}

}  // namespace chai::cuda
