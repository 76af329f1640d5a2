// The CUDA backend; see cuda_backend.h.
#include <algorithm>
#include <bit>
#include <utility>

#include "cuda_backend.h"
#include "error.h"

namespace chai::cuda {
namespace {

/// The power of two that a decode step's launches are sized for.
int bucket_of(int count) { return int(std::bit_ceil(unsigned(count))); }

Geometry geometry_of(const Config& config) {
  Geometry g{};
  g.layers = config.layers, g.heads = config.heads, g.key_value_heads = config.key_value_heads, g.head_dim = config.head_dim;
  g.hidden = config.hidden, g.sliding_window = config.sliding_window, g.attention_scale = config.attention_scale;
  return g;
}

float* floats(const Rows& rows) { return static_cast<float*>(rows.memory.get()); }

}  // namespace

CudaBackend::CudaBackend(const CudaOptions& options, DeviceFacts device) : options_(options), device_(std::move(device)) {
  options_.steps_in_flight = std::clamp(options.steps_in_flight, 1, 8);
  use_device(device_.index);
  stream_ = make_stream();
}

CudaBackend::~CudaBackend() {
  try {
    use_device(device_.index);
    synchronize(stream_);
  } catch (...) {  // a faulted device: its memory goes with the context
  }
  staging_.reset();
  linear_.reset();  // its library before the stream that the library works on
  forget_graphs();
  for (Event event : over_) free_event(event);
  free_stream(stream_);
}

std::string CudaBackend::describe() const { return "cuda:" + std::to_string(device_.index) + " (" + device_.name + ")"; }

DeviceMemory CudaBackend::memory() const {
  use_device(device_.index);
  DeviceMemory memory;
  memory_of_device(memory.available, memory.total);
  return memory;
}

Memory CudaBackend::allocate(size_t bytes, const char* what) {
  use_device(device_.index);
  Memory memory = pool_.take(bytes, what);
  fill(memory.get(), 0, bytes, stream_);
  return memory;
}
Memory CudaBackend::reserve(size_t bytes, const char* what) {
  use_device(device_.index);
  return allocate_shared(bytes, what);
}
Rows CudaBackend::allocate_rows(int rows, int width, const char* what) {
  known_queries_.clear();  // they may be queries: the next step looks, and is not replayed
  return {allocate(size_t(rows) * size_t(pitch_of(width)) * sizeof(float), what), rows, width};
}

void CudaBackend::upload(void* device, const void* host, size_t bytes) {
  use_device(device_.index);
  if (bytes) copy_to_device(device, host, bytes, stream_);  // from pageable memory: staged before the call returns
}
void CudaBackend::download(void* host, const void* device, size_t bytes) {
  use_device(device_.index);
  if (bytes) copy_to_host(host, device, bytes, stream_);
  synchronize(stream_);
}
void CudaBackend::copy(void* to, const void* from, size_t bytes) {
  use_device(device_.index);
  if (bytes) copy_on_device(to, from, bytes, stream_);
}

MatrixRef CudaBackend::prepare(const TensorSource& source) {
  use_device(device_.index);
  if (!staging_) staging_ = std::make_unique<Staging>(stream_);
  return upload_matrix(source, options_.compute, *staging_);
}

void CudaBackend::download_logits(const Rows& logits, int row, int count, float* host) {
  const size_t width = size_t(logits.width);
  download(host, floats(logits) + size_t(row) * width, size_t(count) * width * sizeof(float));
}

void CudaBackend::plan(const Config& config, int rows, int sequences) {
  use_device(device_.index);
  staging_.reset();  // all weights are there
  config_ = config;
  rows_ = rows, sequences_ = sequences;
  const int buckets = bucket_of(rows);  // a graph's launches cover the next power of two
  auto library = Cublas::open(options_.cublas && buckets >= least_library_rows, device_);
  linear_ = std::make_unique<Linear>(config, options_.compute, buckets, device_, std::move(library));
  attention_ = std::make_unique<Attention>(config, buckets, bucket_of(sequences), device_, AttentionOptions{options_.hopper_prefill});
  clusterer_ = std::make_unique<Clusterer>(config, bucket_of(sequences), device_);
  sampler_ = std::make_unique<TokenSampler>(config, bucket_of(sequences), device_, options_.steps_in_flight);
  arena_ = std::make_unique<StepArena>(config, rows, sequences, options_.steps_in_flight);
  for (int i = 0; i < options_.steps_in_flight; ++i) over_.push_back(make_event());
  query_pointers_ = DeviceArray<const void*>(size_t(config.layers), "pointers to queries");
  launch_ = {};
  launch_.stream = stream_, launch_.view = arena_->view(), launch_.geometry = geometry_of(config);
  launch_.compute = options_.compute, launch_.device = &device_;
}

/// Launches for this very step.
void CudaBackend::cover(const Step& step) {
  mode_ = Mode::eager;
  launch_.rows = step.rows(), launch_.sequences = int(step.sequences.size()), launch_.logit_rows = int(step.logit_rows.size());
  launch_.host = &step;
  launch_.prefill = launch_.warm_up = false;
  for (const Segment& segment : step.segments) {
    launch_.prefill |= segment.count > 1;
    launch_.warm_up |= segment.warm_up;
  }
}

/// Decode steps come in few shapes: the second step of a shape is recorded, later ones are replayed. Anything else runs eagerly.
void CudaBackend::choose_mode(const Step& step) {
  cover(step);
  if (!options_.graphs || launch_.prefill || launch_.warm_up || known_queries_.empty()) return;
  // Large products are faster by a library, which is not asked while a graph is recorded.
  if (step.rows() >= least_library_rows && linear_->library() && linear_->library()->ready()) return;
  const int rows = bucket_of(step.rows());
  const int logit_rows = launch_.logit_rows == 0 ? 0 : bucket_of(launch_.logit_rows);
  Recorded& known = graphs_[{rows, bucket_of(launch_.sequences), logit_rows, TokenSampler::kind_of(step)}];
  if (++known.seen == 1) return;
  launch_.rows = rows, launch_.sequences = bucket_of(launch_.sequences), launch_.logit_rows = logit_rows;
  launch_.host = nullptr;
  mode_ = known.graph ? Mode::replaying : Mode::recording;
}

/// Does a part of the step now, or keeps it in the graph that is being recorded; a graph that is replayed has it.
template <class Part>
void CudaBackend::run(Part part) {
  if (mode_ == Mode::replaying) return;
  if (mode_ == Mode::eager) return part();
  try {
    part();
    parts_.push_back(part);
  } catch (const std::exception& error) {
    start_over(error.what());
    part();
  }
}

void CudaBackend::start_recording() {
  try {
    begin_capture(stream_);
  } catch (const Error& error) {
    start_over(error.what());
  }
}

/// Recording only saves time: where it fails, the step runs as if it had never been tried, and no later one is recorded. What has failed
/// for another reason fails again.
void CudaBackend::start_over(const char* why) {
  stop_recording();
  options_.graphs = false;
  why_not_recorded_ = why;
  cover(*step_);
  for (const auto& part : std::exchange(parts_, {})) part();
}

void CudaBackend::forget_graphs() {
  for (auto& [shape, recorded] : graphs_)
    if (recorded.graph) free_graph(recorded.graph);
  graphs_.clear();
}

void CudaBackend::stop_recording() noexcept {
  if (mode_ != Mode::recording) return;
  mode_ = Mode::eager;
  try {
    free_graph(end_capture(stream_));
  } catch (...) {  // the step has failed already; the capture goes with it
  }
}

void CudaBackend::begin(const Step& step) {
  use_device(device_.index);
  stop_recording();
  if (std::exchange(open_, true)) synchronize(stream_);  // a step that failed half-way: its records may still be on their way
  if (step.rows() > rows_ || int(step.sequences.size()) > sequences_)
    throw Error(Code::device_fault, "a step of " + std::to_string(step.rows()) + " rows, but buffers for " + std::to_string(rows_));
  if (step.pool.type == Element::float32)
    throw Error(Code::option_invalid, "cacheType 'float32' is for the CPU; on a CUDA device use 'float16' or 'bfloat16'");
  launch_.cache = step.pool.type;
  step_ = &step;
  parts_.clear();
  choose_mode(step);
  const bool rotary = !config_.rotary_frequencies.empty();
  const int place = place_of(submitted_);
  arena_->fill(step, rotary ? linear_->cosines() : nullptr, rotary ? linear_->sines() : nullptr, stream_, place, sampler_->drawn());
  if (!step.draws.empty()) sampler_->begin(step, stream_, place);
  if (mode_ == Mode::recording) start_recording();
  run([this, rotary] {
    if (rotary) linear_->rotary_tables(launch_);
    attention_->begin(launch_);
  });
}

void CudaBackend::embed(const Step&, const ModelWeights& weights, Rows& x) {
  run([this, &weights, &x] { linear_->embed(launch_, weights, floats(x)); });
}

void CudaBackend::qkv(const Step&, Phase phase, int layer, const LayerWeights& weights, const Rows& x, Rows& queries) {
  if (phase == Phase::warm_up && !launch_.warm_up) return;
  run([=, this, &weights, &x, &queries] { linear_->qkv(launch_, phase, layer, weights, floats(x), queries.memory.get()); });
}

void CudaBackend::cluster(const Step&, int layer, const Rows& queries) {
  if (launch_.warm_up) clusterer_->cluster(launch_, layer, queries.memory.get());  // never recorded
}

/// The device's list of query buffers follows the engine's, which changes only when a plan with shared scores is opened.
void CudaBackend::sync_queries(std::span<const Rows> queries) {
  std::vector<const void*> now;
  for (const Rows& rows : queries) now.push_back(rows.memory.get());
  if (now == known_queries_) return;
  if (mode_ == Mode::recording) throw Error(Code::device_fault, "query buffers changed while a step was recorded");
  copy_to_device(query_pointers_.get(), now.data(), now.size() * sizeof(void*), stream_);
  forget_graphs();
  known_queries_ = std::move(now);
}

void CudaBackend::attend(const Step&, int layer, std::span<const Rows> queries, Rows& mixed) {
  run([this, layer, queries, &mixed] {
    if (layer == 0) sync_queries(queries);
    attention_->attend(launch_, layer, query_pointers_.get(), mixed.memory.get());
  });
}

void CudaBackend::output(const Step&, const LayerWeights& weights, const Rows& mixed, Rows& x) {
  run([this, &weights, &mixed, &x] { linear_->output(launch_, weights, mixed.memory.get(), floats(x)); });
}

void CudaBackend::feed_forward(const Step&, const LayerWeights& weights, Rows& x) {
  run([this, &weights, &x] { linear_->feed_forward(launch_, weights, floats(x)); });
}

void CudaBackend::logits(const Step&, const ModelWeights& weights, const Rows& x, Rows& logits) {
  run([this, &weights, &x, &logits] { linear_->logits(launch_, weights, floats(x), floats(logits)); });
}

void CudaBackend::sample(const Step&, const Rows& logits) {
  run([this, &logits] { sampler_->sample(launch_, floats(logits)); });
}

void CudaBackend::submit(const Step& step) {
  if (mode_ != Mode::eager) {
    const bool recorded = mode_ == Mode::recording;
    mode_ = Mode::eager;  // whatever end_capture says, the capture is over
    Recorded& known = graphs_[{launch_.rows, launch_.sequences, launch_.logit_rows, TokenSampler::kind_of(step)}];
    try {
      if (recorded) known.graph = end_capture(stream_);
      replay(known.graph, stream_);
      ++replays_;
    } catch (const Error& error) {
      if (!recorded) throw;
      start_over(error.what());
    }
  }
  launch_.host = nullptr;
  record(over_[size_t(place_of(submitted_))], stream_);
  ++submitted_;
  open_ = false;
  most_in_flight_ = std::max(most_in_flight_.load(), submitted_ - finished_);
}

void CudaBackend::finish(Step& step) {
  use_device(device_.index);
  const int place = place_of(finished_++);
  wait(over_[size_t(place)]);
  if (!step.draws.empty()) sampler_->finish(step, place);
}

}  // namespace chai::cuda

namespace chai {

std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options) {
  const auto refuse = [&](const std::string& reason) {
    throw Error(Code::device_unavailable,
                "device 'cuda:" + std::to_string(options.device) + "' cannot be used: " + reason + "; use device 'cpu' or 'auto'");
  };
  std::string why_none;
  const int count = cuda::count_devices(why_none);
  if (count == 0) refuse(why_none);
  if (options.device < 0 || options.device >= count) refuse("there are " + std::to_string(count) + " CUDA devices, numbered from 0");
  const cuda::DeviceFacts facts = cuda::open_device(options.device);
  if (!facts.reason.empty()) refuse(facts.reason);
  if (options.compute == Element::float32) throw Error(Code::option_invalid, "a CUDA device computes in float16 or bfloat16");
  return std::make_unique<cuda::CudaBackend>(options, facts);
}

namespace {

Device entry(const cuda::DeviceFacts& facts) {
  Device device;
  device.id = "cuda:" + std::to_string(facts.index);
  device.name = facts.name;
  device.reason = facts.reason;
  device.total_bytes = facts.total_bytes, device.free_bytes = facts.free_bytes;
  device.detail = "compute capability " + std::to_string(facts.capability / 10) + "." + std::to_string(facts.capability % 10) + ", " +
                  std::to_string(facts.processors) + " multiprocessors";
  return device;
}

}  // namespace

std::vector<Device> cuda_devices(const std::string& wish) {
  std::string why_none;
  const int count = cuda::count_devices(why_none);
  if (count == 0) {
    Device none;
    none.id = "cuda";
    none.name = "NVIDIA CUDA";
    none.reason = why_none;
    return {none};
  }
  std::vector<Device> found;
  if (wish.empty()) {
    for (int i = 0; i < count; ++i) found.push_back(entry(cuda::describe_device(i)));
  } else if (wish == "auto") {
    for (int i = 0; i < count && (found.empty() || !found.back().reason.empty()); ++i) found.push_back(entry(cuda::open_device(i)));
  } else if (cuda_index(wish) < count) {
    found.push_back(entry(cuda::open_device(cuda_index(wish))));
  }
  return found;
}

}  // namespace chai
