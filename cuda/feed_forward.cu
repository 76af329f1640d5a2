// The feed-forward block. In: the residual stream x, float32. Out: x += down(act(gate) * up) or down(act(up)), norms before or after.
#include "multiply.cuh"

namespace chai::cuda {

void Linear::feed_forward(const StepLaunch& step, const LayerWeights& weights, float* x) {
  if (step.rows == 0) return;
  const State& s = *state_;
  const Config& config = s.config;
  const NormView norm = view_of(weights.feed_forward_norm, config);
  const bool before = config.norm_placement == NormPlacement::before;
  with_type(s.compute, [&](auto type) {
    using T = decltype(type);
    T* inner = reinterpret_cast<T*>(s.inner.get());
    const RowsOf<T> from = normed_rows<T>(x, config.hidden, before ? norm : NormView{});
    if (config.gated) {
      GatedTask<T> task;
      task.gate = weights_of<T>(weights.gate), task.up = weights_of<T>(weights.up);
      task.columns = config.intermediate, task.activation = config.activation;
      task.to = inner, task.pitch = pitch_of(config.intermediate);
      multiply(step, s, task, from, step.rows);
    } else {
      PlainTask<T> task = narrow_task<T>(weights.up, inner, config.intermediate);
      task.store_as = Store::activated, task.activation = config.activation;
      multiply(step, s, task, from, step.rows);
    }
    multiply(step, s, add_task<T>(weights.down, x, config.hidden), rows_of(static_cast<const T*>(inner), config.intermediate), step.rows);
  });
  if (!before) normalise_in_place(step, s, norm, x);
}

}  // namespace chai::cuda
