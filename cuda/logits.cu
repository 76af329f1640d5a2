// Logits of the rows that want them. In: the residual stream, float32. Out: output(projection(norm(x[logit row]))), float32.
#include "multiply.cuh"

namespace chai::cuda {

void Linear::logits(const StepLaunch& step, const ModelWeights& weights, const float* x, float* logits) {
  if (step.logit_rows == 0) return;
  const State& s = *state_;
  const Config& config = s.config;
  with_type(s.compute, [&](auto type) {
    using T = decltype(type);
    RowsOf<T> from = normed_rows<T>(x, config.hidden, view_of(weights.final_norm, config));
    from.of_logits = true;
    if (weights.output_projection) {
      T* embedded = reinterpret_cast<T*>(s.embedded.get());
      multiply(step, s, narrow_task<T>({weights.output_projection, nullptr}, embedded, config.embedding), from, step.logit_rows);
      from = rows_of(static_cast<const T*>(embedded), config.embedding);
      from.of_logits = true;
    }
    multiply(step, s, float_task<T>({weights.output, nullptr}, logits, config.vocabulary, config.vocabulary), from, step.logit_rows);
  });
}

}  // namespace chai::cuda
