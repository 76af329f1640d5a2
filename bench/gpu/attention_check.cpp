// Whether attention's results are right at the shapes that are measured. In: a case all of whose layers ran. Out: the relative distance of
// some of the last layer's results to softmax attention in double precision, over the same pages. Shares no code with the kernels.
#include <algorithm>
#include <cmath>
#include <set>

#include "attention_case.h"
#include "element.h"

namespace chai::bench {
namespace {

template <class T>
std::vector<T> fetched(const T* from, size_t count, cuda::Stream stream) {
  std::vector<T> out(count);
  cuda::copy_to_host(out.data(), from, count * sizeof(T), stream);
  cuda::synchronize(stream);
  return out;
}

std::vector<float> widened(const std::vector<uint16_t>& from, bool bfloat16) {
  std::vector<float> out(from.size());
  std::ranges::transform(from, out.begin(), bfloat16 ? float_of_bfloat16 : float_of_float16);
  return out;
}

std::set<int> first_middle_last(int count) { return {0, count / 2, count - 1}; }

}  // namespace

void AttentionCase::poison() { cuda::fill(mixed_.get(), 0xff, mixed_.count() * sizeof(uint16_t), launch_.stream); }

bool AttentionCase::all_finite() const {
  const uint16_t exponent = shape_.bfloat16 ? 0x7f80 : 0x7c00;  // all ones in NaN and infinity
  constexpr size_t at_once = size_t(1) << 24;
  for (size_t at = 0; at < mixed_.count(); at += at_once) {
    size_t bad = 0;
    for (const uint16_t bits : fetched(mixed_.get() + at, std::min(at_once, mixed_.count() - at), launch_.stream))
      bad += (bits & exponent) == exponent;
    if (bad > 0) return false;
  }
  return true;
}

/// K or V of one head of a sequence, [context, in whole pages][head_dim].
std::vector<float> AttentionCase::rows_of(int sequence, int table_row) const {
  const size_t blocks = size_t(shape_.context + page_rows - 1) / page_rows, page = size_t(page_rows) * size_t(shape_.head_dim);
  std::vector<uint16_t> bits(blocks * page);
  const auto* pool = static_cast<const uint16_t*>(step_.pool.base);
  for (size_t block = 0; block < blocks; ++block) {
    const int32_t id = pages_[(size_t(sequence) * blocks + block) * size_t(geometry_.table_rows) + size_t(table_row)];
    cuda::copy_to_host(bits.data() + block * page, pool + size_t(id) * page, page * sizeof(uint16_t), launch_.stream);
  }
  cuda::synchronize(launch_.stream);
  return widened(bits, shape_.bfloat16);
}

double AttentionCase::head_error(int sequence, int head) const {
  const int layer = layers() - 1, d = shape_.head_dim;
  const LayerHeads& heads = plan_->layers[size_t(layer)].heads;
  const int slot = heads.score_of_query[size_t(head)];
  const std::vector<float> keys = rows_of(sequence, geometry_.key_row[size_t(layer)] + heads.key_of_score[size_t(slot)]);
  const std::vector<float> values = rows_of(sequence, geometry_.value_row[size_t(layer)] + heads.value_of_query[size_t(head)]);
  const size_t pitch = size_t(cuda::pitch_of(config_.query_width()));
  double worst = 0;
  for (const int row : first_middle_last(shape_.rows)) {
    const size_t at = size_t(sequence * shape_.rows + row) * pitch;
    const std::vector<float> query = widened(fetched(queries_.get() + at + slot * d, size_t(d), launch_.stream), shape_.bfloat16);
    const std::vector<float> got = widened(fetched(mixed_.get() + at + head * d, size_t(d), launch_.stream), shape_.bfloat16);
    std::vector<double> p(size_t(shape_.context - shape_.rows + row + 1));  // keys that the row sees
    for (size_t j = 0; j < p.size(); ++j) {
      double sum = 0;
      for (int e = 0; e < d; ++e) sum += double(query[size_t(e)]) * double(keys[j * size_t(d) + size_t(e)]);
      p[j] = sum * double(config_.attention_scale);
    }
    const double most = *std::ranges::max_element(p);
    std::vector<double> want(size_t(d), 0.0);
    double total = 0, off = 0, size = 0;
    for (size_t j = 0; j < p.size(); ++j) {
      const double weight = std::exp(p[j] - most);
      total += weight;
      for (int e = 0; e < d; ++e) want[size_t(e)] += weight * double(values[j * size_t(d) + size_t(e)]);
    }
    for (int e = 0; e < d; ++e) {
      const double x = want[size_t(e)] / total;
      off += (double(got[size_t(e)]) - x) * (double(got[size_t(e)]) - x), size += x * x;
    }
    worst = std::max(worst, std::sqrt(off / size));
  }
  return worst;
}

double AttentionCase::error() const {
  if (!all_finite()) return INFINITY;
  double worst = 0;
  for (const int sequence : first_middle_last(shape_.batch))
    for (const int head : {0, shape_.heads - 1}) worst = std::max(worst, head_error(sequence, head));
  return worst;
}

}  // namespace chai::bench
