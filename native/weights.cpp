// Reads a model's weights from its files into a backend; see weights.h.
#include "weights.h"

#include <map>
#include <string>
#include <tuple>

#include "error.h"

namespace chai {
namespace {

/// Visits every tensor with the shape that the config gives it: visit(tensor, where to put it, name, rows, columns, required).
template <class Visit>
void each_tensor(const LoadOptions& options, ModelWeights& to, Visit visit) {
  const Config& c = options.config;
  const bool layer_norm = c.norm == NormKind::layer;
  const int q = c.query_width(), kv = c.key_value_width(), d = c.hidden, f = c.intermediate;
  const int positions = c.context + c.position_offset;
  visit(options.token_embedding, to.token_embedding, "token embedding", c.vocabulary, c.embedding, true);
  visit(options.position_embedding, to.position_embedding, "position embedding", positions, d, false);
  visit(options.embedding_projection, to.embedding_projection, "embedding projection", d, c.embedding, c.embedding != d);
  visit(options.final_norm, to.final_norm.weight, "final norm", 1, d, false);
  visit(options.final_norm_bias, to.final_norm.bias, "final norm bias", 1, d, false);
  visit(options.output_projection, to.output_projection, "output projection", c.embedding, d, c.embedding != d);
  visit(options.output, to.output, "output", c.vocabulary, c.embedding, true);
  for (int i = 0; i < c.layers; ++i) {
    const LayerTensors& t = options.layers[i];
    LayerWeights& w = to.layers[i];
    const std::string layer = "layer " + std::to_string(i) + " ";
    visit(t.attention_norm, w.attention_norm.weight, layer + "attention norm", 1, d, true);
    visit(t.attention_norm_bias, w.attention_norm.bias, layer + "attention norm bias", 1, d, layer_norm);
    visit(t.query, w.query.weight, layer + "query", q, d, true);
    visit(t.query_bias, w.query.bias, layer + "query bias", 1, q, false);
    visit(t.key, w.key.weight, layer + "key", kv, d, true);
    visit(t.key_bias, w.key.bias, layer + "key bias", 1, kv, false);
    visit(t.value, w.value.weight, layer + "value", kv, d, true);
    visit(t.value_bias, w.value.bias, layer + "value bias", 1, kv, false);
    visit(t.attention_output, w.attention_output.weight, layer + "attention output", d, q, true);
    visit(t.attention_output_bias, w.attention_output.bias, layer + "attention output bias", 1, d, false);
    visit(t.feed_forward_norm, w.feed_forward_norm.weight, layer + "feed-forward norm", 1, d, true);
    visit(t.feed_forward_norm_bias, w.feed_forward_norm.bias, layer + "feed-forward norm bias", 1, d, layer_norm);
    visit(t.gate, w.gate.weight, layer + "gate", f, d, c.gated);
    visit(t.gate_bias, w.gate.bias, layer + "gate bias", 1, f, false);
    visit(t.up, w.up.weight, layer + "up", f, d, true);
    visit(t.up_bias, w.up.bias, layer + "up bias", 1, f, false);
    visit(t.down, w.down.weight, layer + "down", d, f, true);
    visit(t.down_bias, w.down.bias, layer + "down bias", 1, d, false);
  }
}

/// rows 0 in `rows_at_least` style checks: the position table may be longer than the context in use.
void check_tensor(const FileTensor& tensor, const std::string& name, int64_t rows, int64_t columns, bool at_least,
                  const std::vector<std::shared_ptr<File>>& files) {
  const auto size = [](int64_t r, int64_t c) { return std::to_string(r) + " x " + std::to_string(c); };
  if (tensor.file < 0 || tensor.file >= int(files.size()))
    throw Error(Code::model_invalid, name + ": file index " + std::to_string(tensor.file) + " is out of range");
  const bool rows_fit = at_least ? tensor.rows >= rows && tensor.rows < (1 << 30) : tensor.rows == rows;
  if (!rows_fit || tensor.columns != columns)
    throw Error(Code::model_invalid,
                name + ": shape " + size(tensor.rows, tensor.columns) + ", but the config asks for " + size(rows, columns));
  const uint64_t bytes = uint64_t(tensor.rows) * uint64_t(columns) * bytes_of(tensor.type), end = files[tensor.file]->size();
  if (bytes > end || tensor.offset > end - bytes)
    throw Error(Code::model_invalid, name + ": its data ends past the end of the file (" + std::to_string(end) +
                                         " bytes); the file may be truncated, download it again");
}

/// Hands tensors to the backend, each file position once (tied weights are one Matrix), and counts bytes.
class Loader {
 public:
  Loader(const LoadOptions& options, Backend& backend, const Progress& progress, LoadedWeights& out)
      : options_(options), backend_(backend), progress_(progress), out_(out) {}

  void load() {
    ModelWeights unused;
    unused.layers.resize(options_.layers.size());
    each_tensor(options_, unused,
                [&](const FileTensor& tensor, MatrixRef& to, const std::string& name, int rows, int columns, bool required) {
                  if (tensor.file < 0 && required) throw Error(Code::model_invalid, "the model has no tensor for " + name);
                  if (tensor.file < 0) return;
                  check_tensor(tensor, name, rows, columns, &to == &unused.position_embedding, out_.files);
                  auto [known, added] = shared_.try_emplace(key(tensor));
                  if (added) total_ += bytes(tensor);
                });
    report(0);
    each_tensor(options_, out_.weights, [&](const FileTensor& tensor, MatrixRef& to, const std::string&, int, int, bool) {
      if (tensor.file >= 0) to = matrix(tensor);
    });
    out_.bytes = total_;
  }

 private:
  using Key = std::tuple<int, uint64_t, int64_t, int64_t>;
  static Key key(const FileTensor& t) { return {t.file, t.offset, t.rows, t.columns}; }
  static uint64_t bytes(const FileTensor& t) { return uint64_t(t.rows) * uint64_t(t.columns) * bytes_of(t.type); }

  MatrixRef matrix(const FileTensor& tensor) {
    MatrixRef& known = shared_[key(tensor)];
    if (known) return known;
    File& file = *out_.files[tensor.file];
    TensorSource source{tensor.type, tensor.rows, tensor.columns, {}, nullptr};
    source.read = [&](size_t offset, size_t count, void* to) {
      file.read(tensor.offset + offset, count, to);
      report(count);
    };
    if (options_.mmap) source.mapped = static_cast<const std::byte*>(file.map()) + tensor.offset;
    known = backend_.prepare(source);
    if (options_.mmap) report(bytes(tensor));
    return known;
  }

  void report(uint64_t count) {
    done_ = std::min(total_, done_ + count);
    if (progress_ && !progress_(done_, total_)) throw Error(Code::aborted, "loading was aborted");
  }

  const LoadOptions& options_;
  Backend& backend_;
  const Progress& progress_;
  LoadedWeights& out_;
  std::map<Key, MatrixRef> shared_;
  uint64_t done_ = 0, total_ = 0;
};

}  // namespace

LoadedWeights load_weights(const LoadOptions& options, Backend& backend, const Progress& progress) {
  LoadedWeights out;
  const bool projects = options.embedding_projection.file >= 0 || options.output_projection.file >= 0;
  if (projects && options.config.embedding == options.config.hidden)  // backends keep no rows between the two
    throw Error(Code::model_invalid, "the model has a projection of its embedding, whose width is the hidden size already");
  if (int(options.layers.size()) != options.config.layers)
    throw Error(Code::model_invalid, "the tensor table has " + std::to_string(options.layers.size()) + " layers, the config " +
                                         std::to_string(options.config.layers));
  for (const std::string& path : options.files) out.files.push_back(File::open(path));
  out.weights.layers.resize(options.layers.size());
  Loader(options, backend, progress, out).load();
  if (!options.mmap) out.files.clear();
  return out;
}

}  // namespace chai
