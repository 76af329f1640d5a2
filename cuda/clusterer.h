// Online clustering inside the layer: warm-up scores, membership, tables, K-cache compaction, without the host (CHAI, section 3; the exact
// k-means and average linkage of native/clustering.h). In: queries and warm pages. Out: the sequences' tables and block pages.
#pragma once
#include "device_memory.h"
#include "step_launch.h"

namespace chai::cuda {

class Clusterer {
 public:
  Clusterer(const Config& config, int sequences, const DeviceFacts& device);
  ~Clusterer();

  /// As Backend::cluster. queries: cache type [rows][pitch_of(H * head_dim)]. Returns at once when the step has no warm-up rows.
  void cluster(const StepLaunch& step, int layer, const void* queries);

  size_t bytes() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace chai::cuda
