// What only a device shows: memory that runs out while a model is loaded, and a fault of the device under running work. The test of the
// fault is the last of its process: nothing works on a device after it.
#include <future>

#include "check.h"
#include "device_memory.h"
#include "engine.h"
#include "error.h"
#include "gpu.h"
#include "tiny_model.h"

namespace chai {
namespace {

__global__ void faulty_kernel() { __trap(); }

std::shared_ptr<Engine> load(TinyModel& model) {
  model.options.cache_type = Element::float16;
  return Engine::load(model.options, {}, make_cuda_backend({}));
}

/// Empty when all went well.
std::string outcome_of(Session& session, std::vector<int32_t> ids) {
  std::promise<EvaluateOutcome> promise;
  auto future = promise.get_future();
  const auto job = session.evaluate(std::move(ids), EvaluateResult::last, [&](EvaluateOutcome o) { promise.set_value(std::move(o)); });
  const EvaluateOutcome outcome = future.get();
  try {
    if (outcome.error) std::rethrow_exception(outcome.error);
  } catch (const Error& error) {
    return error.code == Code::device_fault ? "device_fault" : error.what();
  }
  return "";
}

}  // namespace

TEST(gpu_memory_that_others_hold_is_refused_and_used_when_it_is_free) {
  std::string why_none;
  CHECK(cuda::count_devices(why_none) > 0);
  cuda::use_device(0);
  TinyModel model(tiny_config());
  {
    // All memory but a little, in ever smaller pieces.
    std::vector<std::shared_ptr<void>> held;
    for (size_t piece = size_t{1} << 34; piece >= size_t{1} << 20; piece /= 2)
      while (void* memory = cuda::allocate_device(piece)) held.emplace_back(memory, cuda::free_device);
    CHECK(!held.empty());
    try {
      const auto engine = load(model);
      outcome_of(*engine->open(dense_plan(model.options.config)), {1, 2, 3});
      CHECK(false);
    } catch (const Error& error) {
      CHECK(error.code == Code::out_of_memory);
      CHECK(std::string(error.what()).find("free") != std::string::npos);
    }
  }
  const auto engine = load(model);
  CHECK(outcome_of(*engine->open(dense_plan(model.options.config)), {1, 2, 3}).empty());
}

TEST(gpu_fault_is_an_error_of_the_request_and_not_the_end_of_the_process) {
  TinyModel model(tiny_config());
  auto engine = load(model);
  const auto session = engine->open(dense_plan(model.options.config));
  CHECK(outcome_of(*session, {1, 2, 3}).empty());
  cuda::use_device(0);
  faulty_kernel<<<1, 1>>>();
  cudaDeviceSynchronize();
  CHECK(outcome_of(*session, {4, 5}) == "device_fault");
  engine->close();
  engine.reset();  // frees what cannot be freed any more, quietly
  try {
    load(model);
    CHECK(false);
  } catch (const Error& error) {
    CHECK(error.code == Code::device_fault || error.code == Code::device_unavailable);
  }
}

}  // namespace chai
