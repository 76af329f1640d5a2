// Reads a model's weights from its files into a backend. In: the tensor table of LoadOptions, checked here against the config and the
// files. Out: ModelWeights; bytes read are reported as they come.
#pragma once
#include <memory>
#include <vector>

#include "backend.h"
#include "engine.h"
#include "files.h"

namespace chai {

struct LoadedWeights {
  ModelWeights weights;
  std::vector<std::shared_ptr<File>> files;  // kept open only while mapped
  uint64_t bytes = 0;
};

/// Throws model_invalid (missing tensor, wrong shape, file too short), out_of_memory, aborted.
LoadedWeights load_weights(const LoadOptions& options, Backend& backend, const Progress& progress);

}  // namespace chai
