// The option objects of lib/binding.ts as the engine's structs, and the engine's tables as JS objects.
// In: untrusted JS values. Out: checked copies; refusals are MODEL_INVALID (network, tensors), PLAN_INVALID (plans) or OPTION_INVALID.
#pragma once
#include "../engine.h"
#include "values.h"

namespace chai::addon {

LoadOptions load_options(const Napi::Value& value);
/// Resolves the tables of every method but chai; `config` is the loaded model's.
HeadPlan head_plan(const Napi::Value& value, const Config& config);
GenerateOptions generate_options(const Napi::Value& value);
Clustering clustering_of(const Fields& plan);

Napi::Value head_maps(Napi::Env env, const HeadMap& map);

}  // namespace chai::addon
