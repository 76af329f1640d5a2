// Table of contents of the addon: what lib/binding.ts sees. State lives in the Environment of each JS environment.
#include "../clustering.h"
#include "../devices.h"
#include "../platform/platform.h"
#include "environment.h"
#include "job.h"
#include "model_object.h"
#include "options.h"
#include "session_object.h"
#include "values.h"
#include "wrap.h"

namespace chai::addon {
namespace {

napi_value device_array(Napi::Env env, const std::vector<Device>& found) {
  Napi::Array list = Napi::Array::New(env, found.size());
  for (uint32_t i = 0; i < found.size(); ++i) {
    Napi::Object device = Napi::Object::New(env);
    device.Set("id", found[i].id);
    device.Set("name", found[i].name);
    device.Set("usable", found[i].reason.empty());
    if (!found[i].reason.empty()) device.Set("reason", found[i].reason);
    set(device, "totalBytes", found[i].total_bytes);
    set(device, "freeBytes", found[i].free_bytes);
    device.Set("detail", found[i].detail);
    list.Set(i, device);
  }
  return list;
}

napi_value list_devices(napi_env env, napi_callback_info) noexcept {
  return guarded(env, [&]() -> napi_value { return device_array(env, devices()); });
}

napi_value available_bytes(napi_env env, napi_callback_info) noexcept {
  return guarded(env, [&]() -> napi_value { return Napi::Number::New(env, double(platform::host_memory().available)); });
}

/// On a thread: a GPU's driver may take a long time to wake up.
napi_value find_devices(napi_env env, napi_callback_info raw) noexcept {
  return promised(env, [&]() -> napi_value {
    using Found = Job<std::vector<Device>>;
    const Napi::CallbackInfo info(env, raw);
    const std::shared_ptr<Environment> environment = Environment::of(info.Env());
    const std::string wish = to_text(info[0], "device", Code::option_invalid);
    const auto job = Found::create(*environment, [](Napi::Env at, std::vector<Device>& found) { return device_array(at, found); });
    const napi_value promise = job->promise();
    Found::run(job, *environment, [wish] { return devices(wish); });
    return promise;
  });
}

/// Sizes are proven here: cluster_heads trusts them.
napi_value cluster(napi_env env, napi_callback_info raw) noexcept {
  return guarded(env, [&]() -> napi_value {
    const Napi::CallbackInfo info(env, raw);
    const std::vector<double> features = to_float64s(info[0], "features", Code::option_invalid);
    const int heads = int(to_integer(info[1], "heads", Code::option_invalid, 1, 4096));
    if (features.empty() || features.size() % size_t(heads) != 0)
      throw Error(Code::option_invalid, "features has " + std::to_string(features.size()) +
                                            " values, which is no positive multiple of the " + std::to_string(heads) + " heads");
    const Fields plan(info[2], "plan", Code::plan_invalid);
    ClusterRule rule;
    rule.method = clustering_of(plan);
    rule.clusters = plan.count("clusters", 1, heads);
    rule.head_groups = plan.count("headGroups", 1, heads);
    const int key_value_heads = plan.count("keyValueHeads", 1, heads);
    rule.key_heads = plan.count("keyHeads", 0, key_value_heads);
    if (heads % rule.head_groups != 0 || rule.clusters % rule.head_groups != 0)
      throw Error(Code::plan_invalid, "plan.headGroups must divide the number of heads and plan.clusters");
    if (heads % key_value_heads != 0) throw Error(Code::plan_invalid, "plan.keyValueHeads must divide the number of heads");
    if (rule.key_heads > 0 && rule.key_heads < rule.head_groups)
      throw Error(Code::plan_invalid, "plan.keyHeads must be 0 (no constraint) or at least plan.headGroups");
    const Membership membership = cluster_heads(features, heads, key_value_heads, rule);
    Napi::Object result = Napi::Object::New(env);
    result.Set("clusterOf", number_array(env, membership.cluster_of));
    result.Set("representatives", number_array(env, membership.representatives));
    return result;
  });
}

Napi::Object install(Napi::Env env, Napi::Object exports) {
  guarded(env, [&]() -> napi_value {
    const std::shared_ptr<Environment> environment = Environment::install(env);
    environment->no_floats = Napi::Reference<Napi::Value>::New(Napi::Float32Array::New(env, 0), 1);
    define_model_class(*environment);
    define_sequence_class(*environment);
    define_generation_class(*environment);
    const MethodEntry functions[] = {{"load", load},
                                     {"devices", list_devices},
                                     {"findDevices", find_devices},
                                     {"availableBytes", available_bytes},
                                     {"clusterHeads", cluster}};
    for (const MethodEntry& entry : functions) {
      const napi_property_descriptor property{entry.name, nullptr, entry.callback, nullptr, nullptr, nullptr, napi_enumerable, nullptr};
      require(env, napi_define_properties(env, exports, 1, &property));
    }
    return nullptr;
  });
  return exports;
}

}  // namespace
}  // namespace chai::addon

static Napi::Object initialise(Napi::Env env, Napi::Object exports) { return chai::addon::install(env, exports); }
NODE_API_MODULE(chai_llm, initialise)
