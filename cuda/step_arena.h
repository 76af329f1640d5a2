// The step's records on their way to the device: filled in pinned memory, sent by one copy. In: a Step. Out: a StepView in device memory.
// Tokens that an earlier step draws are put in on the device.
#pragma once
#include "device_memory.h"
#include "step_view.cuh"

namespace chai::cuda {

class StepArena {
 public:
  /// For steps of up to `rows` rows and `sequences` sequences, `places` of which may be on their way at once.
  StepArena(const Config& config, int rows, int sequences, int places = 1);

  /// The view's address never changes, nor do the arrays' it points at: a recorded graph reads the next step's contents.
  const StepView* view() const { return reinterpret_cast<const StepView*>(device_.get()); }
  /// Enqueues the copy. `cosines`, `sines`: where they will lie, or nulls. A place must not be filled again before its copy ended.
  /// `drawn`: [draws] what the step before draws, in device memory.
  void fill(const Step& step, const float* cosines, const float* sines, Stream stream, int place = 0, const int32_t* drawn = nullptr);
  size_t bytes() const { return device_.count(); }

 private:
  template <class T>
  size_t place(size_t count);
  template <class T>
  T* host(size_t offset) const {
    return reinterpret_cast<T*>(filled_ + offset);
  }
  template <class T>
  const T* device(size_t offset) const {
    return reinterpret_cast<const T*>(device_.get() + offset);
  }
  void fill_sequences(const Step& step);

  int layers_, rows_, sequences_;
  size_t end_ = 0;
  size_t view_, tokens_, positions_, row_segment_, logit_row_, segment_, sequence_, identity_, key_row_, value_row_, rules_;
  PinnedArray<unsigned char> host_;  // [places][end_]
  unsigned char* filled_ = nullptr;  // the place that is filled
  DeviceArray<unsigned char> device_;
};

}  // namespace chai::cuda
