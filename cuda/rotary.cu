// Cosines and sines of a step's rotary embedding. In: positions, frequencies. Out: [rows][head_dim / 2] each, scaled.
#include "launch.cuh"
#include "linear_state.h"

namespace chai::cuda {
namespace {

constexpr int threads = 128;

__global__ void __launch_bounds__(threads)
    rotary(const StepView* view, const float* frequencies, int half, float scale, float* cosines, float* sines) {
  const int64_t index = int64_t(blockIdx.x) * threads + threadIdx.x;
  if (index >= int64_t(view->rows) * half) return;
  // The angle is a float32 product as in `transformers`; its cosine is exact to float32 at any position.
  const double angle = double(float(view->positions[index / half]) * frequencies[index % half]);
  cosines[index] = float(cos(angle)) * scale;
  sines[index] = float(sin(angle)) * scale;
}

}  // namespace

void Linear::rotary_tables(const StepLaunch& step) {
  const State& s = *state_;
  const int half = int(s.config.rotary_frequencies.size());
  if (half == 0 || step.rows == 0) return;
  const unsigned blocks = unsigned((int64_t(step.rows) * half + threads - 1) / threads);
  launch(rotary, {dim3(blocks), dim3(threads), 0, step.stream}, step.view, s.frequencies.get(), half, s.config.rotary_scale,
         s.cosines.get(), s.sines.get());
}

}  // namespace chai::cuda
