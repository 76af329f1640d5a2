// A ready-made step for attention alone: random pages, tables and queries of a given shape on the device. In: shape and cluster counts.
// Out: a StepLaunch, and the bytes and multiply-adds that it needs at least.
#pragma once
#include <memory>

#include "attention.h"
#include "bench.h"
#include "step_arena.h"

namespace chai::bench {

struct AttentionShape {
  int heads = 32, key_value_heads = 32, head_dim = 128;
  int batch = 1, context = 2048;  // keys a sequence holds, the rows of this step included
  int rows = 1;                   // query rows a sequence: 1 = decode, `context` = prefill
  std::vector<int> clusters;      // [layers] score slots; heads = dense
  bool bfloat16 = false;
  bool sm90 = false;  // prefill by the kernels made for Hopper
};

/// Bytes of the pages of all layers.
double page_bytes_of(const AttentionShape& shape);

/// Deals heads to clusters unevenly, as real prompts do: every cluster has a member, the rest go to low numbers more often.
Membership uneven_clusters(int heads, int clusters, unsigned seed);

class AttentionCase {
 public:
  AttentionCase(const AttentionShape& shape, const cuda::DeviceFacts& device, cuda::Stream stream);

  /// What a step does once, before its layers. `recording`: into a graph, which no host content may reach (decode only).
  void plan(cuda::Attention& attention, bool recording);
  /// All layers once, as a decode step or a prefill would.
  void enqueue(cuda::Attention& attention);
  /// Makes all results NaN, so that none is taken for written that was not.
  void poison();
  /// After all layers ran: the worst relative distance of the last one's results to double precision, for the first, a middle and the last
  /// sequence and row, the first and the last head. Infinite where a result of any row is NaN or infinite. (attention_check.cpp)
  double error() const;
  /// Fills the step's records again with the places of these rotary tables, and asks for the logits of every sequence's last row.
  void use_rotary(const float* cosines, const float* sines);
  const cuda::StepLaunch& launch() const { return launch_; }
  const Config& config() const { return config_; }
  int layers() const { return int(shape_.clusters.size()); }
  /// K and V bytes that one pass over all layers must read.
  double bytes() const { return bytes_; }
  /// Multiply-adds times two of one pass: as executed (scores once a cluster), and as dense attention would need.
  double executed_flops() const { return executed_flops_; }
  double dense_flops() const { return dense_flops_; }

 private:
  void fill_tables();
  void fill_pages(cuda::Stream stream);
  bool all_finite() const;
  std::vector<float> rows_of(int sequence, int table_row) const;
  double head_error(int sequence, int head) const;

  AttentionShape shape_;
  Config config_;
  std::shared_ptr<HeadPlan> plan_;
  PlanGeometry geometry_;
  Step step_;
  std::vector<int32_t> pages_;  // [sequences][blocks][table rows], as on the device
  std::vector<std::shared_ptr<void>> held_;
  std::unique_ptr<cuda::StepArena> arena_;
  cuda::DeviceArray<uint16_t> queries_, mixed_;
  cuda::DeviceArray<const void*> query_pointers_;
  cuda::StepLaunch launch_;
  double bytes_ = 0, executed_flops_ = 0, dense_flops_ = 0;
};

}  // namespace chai::bench
