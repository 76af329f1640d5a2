// The host shim itself: what it must catch (missing barriers, weak waits, lanes that meet in different collectives, deadlock) it catches,
// masks that name some lanes of a warp work, and graphs replay what was enqueued. Not for a device.
#include <sys/wait.h>
#include <unistd.h>

#include <random>

#include "check.h"
#include "cuda_test.h"
#include "error.h"
#include "launch.cuh"

namespace chai::cuda {
namespace {

/// What a body that must abort wrote to stderr; empty when it did not abort.
template <class Body>
std::string last_words(Body body) {
  int ends[2];
  if (pipe(ends) != 0) return "";
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 2);
    body();
    _exit(0);
  }
  close(ends[1]);
  std::string words;
  char buffer[256];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;) words.append(buffer, size_t(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT ? words : "";
}
bool says(const std::string& words, const char* what) { return words.find(what) != std::string::npos; }

template <class... Parameters, class... Arguments>
void run(void (*kernel)(Parameters...), unsigned threads, size_t shared, Arguments... arguments) {
  launch(kernel, {dim3(1), dim3(threads), shared, nullptr}, arguments...);
}

/// Writes and reads shared memory from opposite ends.
__global__ void swap_ends(int* out, bool barrier) {
  DEV_DYN_SMEM(int, values);
  values[threadIdx.x] = int(threadIdx.x);
  if (barrier) __syncthreads();
  out[threadIdx.x] = values[blockDim.x - 1 - threadIdx.x];
}
/// Two copies in two groups; waits for one or both of them.
__global__ void copy_two(const int* from, int* out, bool all) {
  DEV_DYN_SMEM(int, values);
  for (int group = 0; group < 2; ++group) {
    dev::cp_async16(values + group * 128 + threadIdx.x * 4, from + group * 128 + threadIdx.x * 4);
    dev::cp_async_commit();
  }
  if (all)
    dev::cp_async_wait<0>();
  else
    dev::cp_async_wait<1>();
  __syncthreads();
  for (int i = 0; i < 8; ++i) out[threadIdx.x * 8 + i] = values[threadIdx.x * 8 + i];
}
__global__ void misaligned_copy(const int* from) {
  DEV_DYN_SMEM(int, values);
  dev::cp_async16(values + threadIdx.x * 4, from + 1);
}
__global__ void different_collectives() {
  if (threadIdx.x < 16)
    __shfl_xor_sync(dev::all_lanes, 1, 1);
  else
    __ballot_sync(dev::all_lanes, 1);
}
__global__ void different_masks() { __syncwarp(threadIdx.x < 16 ? 0xffffu : dev::all_lanes); }
__global__ void exited_lane() {
  if (threadIdx.x == 3) return;
  __syncwarp();
}
__global__ void unnamed_lane() { __syncwarp(0xffffu); }
__global__ void barrier_against_collective() {
  if (threadIdx.x % 32 < 16)
    __syncthreads();
  else
    __syncwarp();
}
__global__ void nothing() {}

/// Sums over pieces of a warp that do different numbers of collectives, between sums over all of it.
__global__ void piecewise_sums(const int* in, int* out) {
  const int lane = int(threadIdx.x) & 31;
  int x = in[threadIdx.x];
  for (int round = 0; round < 6; ++round) {
    const bool upper = (lane * 7 + round * 5) % 32 >= 11;  // every round other lanes
    const uint32_t mask = __ballot_sync(dev::all_lanes, upper) ^ (upper ? 0 : dev::all_lanes);
    for (int times = 0; times < (upper ? 1 + round % 2 : 2 + round % 3); ++times) {
      int sum = 0;
      for (uint32_t rest = mask; rest; rest &= rest - 1) sum += __shfl_sync(mask, x, __ffs(int(rest)) - 1);
      x = sum % 1000 + lane;
    }
    x += __shfl_xor_sync(dev::all_lanes, x, 1 << round % 5);
    x %= 1000;
  }
  out[threadIdx.x] = x;
}
/// The same, lane by lane.
std::vector<int> expected_sums(std::vector<int> x) {
  for (size_t warp = 0; warp < x.size() / 32; ++warp) {
    int* w = x.data() + warp * 32;
    for (int round = 0; round < 6; ++round) {
      for (const bool piece : {false, true})
        for (int times = 0; times < (piece ? 1 + round % 2 : 2 + round % 3); ++times) {
          int sum = 0;
          for (int lane = 0; lane < 32; ++lane)
            if (((lane * 7 + round * 5) % 32 >= 11) == piece) sum += w[lane];
          for (int lane = 0; lane < 32; ++lane)
            if (((lane * 7 + round * 5) % 32 >= 11) == piece) w[lane] = sum % 1000 + lane;
        }
      const std::vector<int> before(w, w + 32);
      for (int lane = 0; lane < 32; ++lane) w[lane] = (w[lane] + before[size_t(lane ^ (1 << round % 5))]) % 1000;
    }
  }
  return x;
}

__global__ void add_to(int* values, int what) { values[threadIdx.x] += what; }

template <class Body>
bool throws(Body body) {
  try {
    body();
  } catch (const Error&) {
    return true;
  }
  return false;
}

}  // namespace

TEST(shim_shows_a_missing_barrier) {
  const Upload<int> out(std::vector<int>(64, -1));
  int wrong = 0;
  for (unsigned seed = 0; seed < 6; ++seed) {
    set_schedule(seed);
    for (const bool barrier : {true, false}) {
      run(swap_ends, 64, 256, out.get(), barrier);
      const std::vector<int> found = out.read();
      bool right = true;
      for (int i = 0; i < 64; ++i) right = right && found[size_t(i)] == 63 - i;
      if (barrier) CHECK(right);
      if (!barrier) wrong += !right;
    }
  }
  CHECK(wrong == 6);
}

TEST(shim_shows_a_wait_that_is_too_weak) {
  std::vector<int> values(256);
  for (int i = 0; i < 256; ++i) values[size_t(i)] = i * i;
  const Upload<int> from(values), out(std::vector<int>(256, -1));
  int wrong = 0;
  for (unsigned seed = 0; seed < 6; ++seed) {
    set_schedule(seed);
    run(copy_two, 32, 1024, from.get(), out.get(), true);
    CHECK(out.read() == values);
    run(copy_two, 32, 1024, from.get(), out.get(), false);
    wrong += out.read() != values;
  }
  CHECK(wrong == 3);  // the even schedules, where copies land late
  set_schedule(0);
}

TEST(shim_stops_lanes_that_do_not_fit_together) {
  const Upload<int> memory(std::vector<int>(64, 0));
  for (unsigned seed = 0; seed < 3; ++seed) {
    set_schedule(seed);
    CHECK(says(last_words([] { run(different_collectives, 32, 0); }), "lanes meet in different collectives"));
    CHECK(says(last_words([] { run(different_masks, 32, 0); }), "simt: "));  // which words depends on who comes first
    CHECK(says(last_words([] { run(exited_lane, 32, 0); }), seed == 0 ? "has exited" : "simt: "));
    CHECK(says(last_words([] { run(unnamed_lane, 32, 0); }), "does not name it"));
    CHECK(says(last_words([] { run(barrier_against_collective, 64, 0); }), "deadlock"));
    CHECK(says(last_words([&] { run(misaligned_copy, 32, 512, memory.get()); }), "misaligned"));
  }
  CHECK(says(last_words([] { launch(nothing, {dim3(1, 65536), dim3(32), 0, nullptr}); }), "65535"));
  CHECK(says(last_words([] { launch(nothing, {dim3(1), dim3(1025), 0, nullptr}); }), "1024"));
  CHECK(says(last_words([] { launch(nothing, {dim3(1), dim3(32), 228 * 1024, nullptr}); }), "shared memory"));
  CHECK(last_words([] { run(nothing, 32, 0); }).empty());
  set_schedule(0);
}

TEST(shim_runs_collectives_of_some_lanes) {
  std::mt19937 random(3);
  for (unsigned seed = 0; seed < 24; ++seed) {
    set_schedule(seed);
    std::vector<int> values(64);
    for (int& x : values) x = int(random() % 1000);
    const Upload<int> in(values), out(std::vector<int>(64, -1));
    run(piecewise_sums, 64, 0, in.get(), out.get());
    CHECK(out.read() == expected_sums(values));
  }
  set_schedule(0);
}

TEST(shim_records_and_replays_graphs) {
  const Stream stream = make_stream(), other = make_stream();
  const Upload<int> values(std::vector<int>(32, 1)), copy(std::vector<int>(32, 0)), elsewhere(std::vector<int>(32, 0));
  std::vector<int> host(32, 0);
  int what = 5;
  begin_capture(stream);
  launch(add_to, {dim3(1), dim3(32), 0, stream}, values.get(), what);
  copy_on_device(copy.get(), values.get(), 128, stream);
  fill(values.get(), 0, 64, stream);
  copy_to_host(host.data(), values.get(), 128, stream);
  launch(add_to, {dim3(1), dim3(32), 0, other}, elsewhere.get(), 3);  // another stream's work is not recorded
  what = 7;                                                           // arguments are those of the recording
  CHECK(throws([&] { begin_capture(other); }));
  CHECK(throws([&] { synchronize(stream); }));
  CHECK(throws([&] { allocate_device(16); }));
  const Graph graph = end_capture(stream);
  CHECK(values.read() == std::vector<int>(32, 1) && copy.read() == std::vector<int>(32, 0) && host[31] == 0);
  CHECK(elsewhere.read() == std::vector<int>(32, 3));
  replay(graph, stream);
  CHECK(copy.read() == std::vector<int>(32, 6) && host[0] == 0 && host[31] == 6);
  replay(graph, stream);  // reads what lies in memory now
  CHECK(copy.read()[0] == 5 && copy.read()[31] == 11 && host[31] == 11);
  CHECK(throws([&] { end_capture(stream); }));
  free_graph(graph), free_stream(stream), free_stream(other);
}

}  // namespace chai::cuda
