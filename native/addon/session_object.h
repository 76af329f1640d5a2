// NativeSequence and NativeGeneration of lib/binding.ts. In: token ids, options. Out: promises of logits, tokens as they are pulled.
#pragma once
#include <memory>

#include "model_object.h"

namespace chai::addon {

/// A session as its JS object, its generations and its waiting promises share it; JS thread only. Frees its pages when the last goes.
struct OpenSequence {
  std::shared_ptr<OpenModel> model;  // ends after the session
  std::shared_ptr<Session> session;
  bool closing = false;

  OpenSequence(std::shared_ptr<OpenModel> of, std::shared_ptr<Session> opened) : model(std::move(of)), session(std::move(opened)) {}
  OpenSequence(const OpenSequence&) = delete;
  OpenSequence& operator=(const OpenSequence&) = delete;
  ~OpenSequence() {
    session.reset();
    model->report_memory();
  }
  /// Throws closed once the sequence or its model was closed.
  Session& open() const;
};

void define_sequence_class(Environment& environment);
void define_generation_class(Environment& environment);

napi_value make_sequence(std::shared_ptr<OpenModel> model, std::shared_ptr<Session> session);
/// Starts generating; the result is a NativeGeneration.
napi_value make_generation(std::shared_ptr<OpenSequence> sequence, std::vector<int32_t> ids, GenerateOptions options);

}  // namespace chai::addon
