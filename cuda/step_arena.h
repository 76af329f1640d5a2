// The step's records on their way to the device: filled in pinned memory, sent by one copy. In: a Step. Out: a StepView in device memory.
#pragma once
#include "device_memory.h"
#include "step_view.cuh"

namespace chai::cuda {

class StepArena {
 public:
  /// For steps of up to `rows` rows and `sequences` sequences.
  StepArena(const Config& config, int rows, int sequences);

  /// The view's address never changes, nor do the arrays' it points at: a recorded graph reads the next step's contents.
  const StepView* view() const { return reinterpret_cast<const StepView*>(device_.get()); }
  /// Enqueues the copy. `rotary`: where cosines and sines will lie, or nulls. The arena must not be filled again before the copy ended.
  void fill(const Step& step, const float* cosines, const float* sines, Stream stream);
  size_t bytes() const { return host_.count(); }

 private:
  template <class T>
  size_t place(size_t count);
  template <class T>
  T* host(size_t offset) const {
    return reinterpret_cast<T*>(host_.get() + offset);
  }
  template <class T>
  const T* device(size_t offset) const {
    return reinterpret_cast<const T*>(device_.get() + offset);
  }
  void fill_sequences(const Step& step);

  int layers_, rows_, sequences_;
  size_t end_ = 0;
  size_t view_, tokens_, positions_, row_segment_, logit_row_, segment_, sequence_, identity_, key_row_, value_row_, rules_;
  PinnedArray<unsigned char> host_;
  DeviceArray<unsigned char> device_;
};

}  // namespace chai::cuda
