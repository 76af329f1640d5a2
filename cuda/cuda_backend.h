// The CUDA backend: the fused steps of native/backend.h, enqueued on one stream of one device. In: steps, weights. Out: activations, pages.
// Decode steps are recorded as a graph the second time their shape comes, and replayed from then on. What a step in flight still needs of
// the host, its records and the room for its results, has a place of its own; device memory is shared, since steps run one after the other.
#pragma once
#include <atomic>
#include <functional>
#include <map>
#include <tuple>

#include "../native/gpu.h"
#include "attention.h"
#include "block_pool.h"
#include "clusterer.h"
#include "linear.h"
#include "step_arena.h"
#include "step_launch.h"
#include "token_sampler.h"
#include "upload.h"

namespace chai::cuda {

class CudaBackend : public Backend {
 public:
  CudaBackend(const CudaOptions& options, DeviceFacts device);
  ~CudaBackend() override;

  std::string describe() const override;
  DeviceMemory memory() const override;
  Memory allocate(size_t bytes, const char* what) override;
  Memory reserve(size_t bytes, const char* what) override;
  Rows allocate_rows(int rows, int width, const char* what) override;
  void upload(void* device, const void* host, size_t bytes) override;
  void download(void* host, const void* device, size_t bytes) override;
  void copy(void* to, const void* from, size_t bytes) override;
  MatrixRef prepare(const TensorSource& source) override;
  void download_logits(const Rows& logits, int row, int count, float* host) override;

  void plan(const Config& config, int rows, int sequences) override;
  int steps_in_flight() const override { return options_.steps_in_flight; }
  void begin(const Step& step) override;
  void embed(const Step& step, const ModelWeights& weights, Rows& x) override;
  void qkv(const Step& step, Phase phase, int layer, const LayerWeights& weights, const Rows& x, Rows& queries) override;
  void cluster(const Step& step, int layer, const Rows& queries) override;
  void attend(const Step& step, int layer, std::span<const Rows> queries, Rows& mixed) override;
  void output(const Step& step, const LayerWeights& weights, const Rows& mixed, Rows& x) override;
  void feed_forward(const Step& step, const LayerWeights& weights, Rows& x) override;
  void logits(const Step& step, const ModelWeights& weights, const Rows& x, Rows& logits) override;
  void sample(const Step& step, const Rows& logits) override;
  void submit(const Step& step) override;
  void finish(Step& step) override;

  /// Steps that ran as a replayed graph so far.
  int64_t replays() const { return replays_; }
  /// The most steps that were in flight at once so far.
  int64_t most_in_flight() const { return most_in_flight_; }
  /// Why steps are no longer recorded, in the words of what refused it; empty as long as they are. Read between steps.
  const std::string& why_not_recorded() const { return why_not_recorded_; }
  /// Who does large products: "cuBLAS 13.1.1", or why no library does. Once the model is loaded; read between steps.
  const std::string& library() const { return linear_->library()->description(); }

 private:
  enum class Mode : uint8_t { eager, recording, replaying };
  /// What a graph's launches depend on: buckets of rows, sequences and logit rows, and how tokens are drawn.
  using Shape = std::tuple<int, int, int, TokenSampler::Kind>;
  struct Recorded {
    Graph graph = nullptr;
    int seen = 0;
  };

  int place_of(int64_t step) const { return int(step % options_.steps_in_flight); }
  void cover(const Step& step);
  void choose_mode(const Step& step);
  template <class Part>
  void run(Part part);
  void start_recording();
  void start_over(const char* why);
  void forget_graphs();
  void stop_recording() noexcept;
  void sync_queries(std::span<const Rows> queries);

  CudaOptions options_;
  DeviceFacts device_;
  Stream stream_ = nullptr;
  BlockPool pool_;
  std::unique_ptr<Staging> staging_;  // while weights are loaded
  Config config_;
  int rows_ = 0, sequences_ = 0;

  std::unique_ptr<Linear> linear_;
  std::unique_ptr<Attention> attention_;
  std::unique_ptr<Clusterer> clusterer_;
  std::unique_ptr<TokenSampler> sampler_;
  std::unique_ptr<StepArena> arena_;
  DeviceArray<const void*> query_pointers_;  // [layers], in device memory
  std::vector<const void*> known_queries_;   // the same on the host

  StepLaunch launch_;  // of the step between begin and submit
  const Step* step_ = nullptr;
  Mode mode_ = Mode::eager;
  std::vector<std::function<void()>> parts_;  // of the step that is recorded
  std::string why_not_recorded_;
  bool open_ = false;                     // between begin and submit
  int64_t submitted_ = 0, finished_ = 0;  // steps
  std::vector<Event> over_;               // [places]
  std::atomic<int64_t> most_in_flight_{0};
  std::map<Shape, Recorded> graphs_;
  std::atomic<int64_t> replays_{0};
};

}  // namespace chai::cuda
