// Norms placed after a residual sum. In: float32 rows. Out: the same rows, normalised.
#include "multiply.cuh"

namespace chai::cuda {
namespace {

__global__ void __launch_bounds__(norm_threads)
    normalise_rows_in_place(const StepView* view, NormView norm, int width, int pitch, float* x) {
  __shared__ float scratch[32];
  dev::wait_for_previous_kernel();
  dev::let_next_kernel_start();
  if (int(blockIdx.x) >= view->rows) return;
  float* const at[1] = {x + int64_t(blockIdx.x) * pitch};
  const float* const from[1] = {at[0]};
  normalise_rows(from, at, norm, width, pitch, scratch);
}

}  // namespace

void normalise_in_place(const StepLaunch& step, const Linear::State& state, const NormView& norm, float* x) {
  if (!norm.weight) return;
  const int width = state.config.hidden;
  launch(normalise_rows_in_place, {dim3(unsigned(step.rows)), dim3(norm_threads), 0, step.stream, state.early}, step.view, norm, width,
         pitch_of(width), x);
}

}  // namespace chai::cuda
