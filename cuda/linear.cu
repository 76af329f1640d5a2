// Buffers of the products of a step, and the output projection. In: mixed values of all heads. Out: x += projection (+ bias), normalised
// where the norm is placed after.
#include "error.h"
#include "linear.h"
#include "linear_state.h"
#include "multiply.cuh"

namespace chai::cuda {

template void multiply(const StepLaunch&, const Linear::State&, const PlainTask<__half>&, const RowsOf<__half>&, int);
template void multiply(const StepLaunch&, const Linear::State&, const PlainTask<__nv_bfloat16>&, const RowsOf<__nv_bfloat16>&, int);

namespace {

template <class T>
DeviceArray<T> zeros(size_t count, const char* what) {
  DeviceArray<T> memory(count, what);
  fill(memory.get(), 0, count * sizeof(T), nullptr);
  return memory;
}

/// Without the room there is no library: the model loads all the same.
void make_room_for_products(Linear::State& s) {
  try {
    s.products = DeviceArray<uint16_t>(size_t(library_rows(s.rows)) * size_t(library_width(s.config)), "products of cuBLAS");
  } catch (const Error& error) {
    if (error.code != Code::out_of_memory) throw;
    s.library->give_up(CublasState::no_memory, error.what());
  }
}

}  // namespace

Linear::Linear(const Config& config, Element compute, int rows, const DeviceFacts& device, std::unique_ptr<Cublas> library)
    : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.config = config, s.compute = compute, s.rows = rows;
  s.early = code_version(normalise<__half>) >= 90;
  const size_t r = size_t(rows), heads = size_t(config.heads) + 2 * size_t(config.key_value_heads);
  s.normed = zeros<uint16_t>(r * size_t(pitch_of(config.hidden)), "normalised rows");
  s.inner = zeros<uint16_t>(r * size_t(pitch_of(config.intermediate)), "feed-forward rows");
  if (config.embedding != config.hidden) s.embedded = zeros<uint16_t>(r * size_t(pitch_of(config.embedding)), "embedded rows");
  s.slots = zeros<int16_t>(r * heads, "slots of heads");
  s.lists = zeros<int32_t>((r + 15) / 16 * (1 + heads), "lists of heads");
  const SharingRoom room = sharing_room(device, rows);
  s.shared_sums = DeviceArray<float>(room.sums, "sums of shared tiles");
  s.arrived = zeros<int32_t>(room.blocks, "counts of shared tiles");
  s.library = std::move(library);
  if (s.library && s.library->ready() && rows >= least_library_rows) make_room_for_products(s);
  if (const size_t half = config.rotary_frequencies.size(); half > 0) {
    s.frequencies = DeviceArray<float>(half, "rotary frequencies");
    s.cosines = zeros<float>(r * half, "rotary cosines");
    s.sines = zeros<float>(r * half, "rotary sines");
    copy_to_device(s.frequencies.get(), config.rotary_frequencies.data(), half * sizeof(float), nullptr);
  }
  synchronize(nullptr);
}
Linear::~Linear() = default;

float* Linear::cosines() const { return state_->cosines.get(); }
float* Linear::sines() const { return state_->sines.get(); }
const Cublas* Linear::library() const { return state_->library.get(); }

size_t Linear::bytes() const {
  const State& s = *state_;
  const size_t halves = s.normed.count() + s.inner.count() + s.embedded.count() + s.slots.count() + s.products.count();
  const size_t shared = s.shared_sums.count() + s.arrived.count();
  return (s.library ? s.library->bytes() : 0) + 2 * halves +
         4 * (shared + s.lists.count() + s.frequencies.count() + s.cosines.count() + s.sines.count());
}

void Linear::output(const StepLaunch& step, const LayerWeights& weights, const void* mixed, float* x) {
  if (step.rows == 0) return;
  const Config& config = state_->config;
  with_type(state_->compute, [&](auto type) {
    using T = decltype(type);
    multiply(step, *state_, add_task<T>(weights.attention_output, x, config.hidden),
             rows_of(static_cast<const T*>(mixed), config.query_width()), step.rows);
  });
  if (config.norm_placement == NormPlacement::after) normalise_in_place(step, *state_, view_of(weights.attention_norm, config), x);
}

}  // namespace chai::cuda
