// What every launcher of a step needs: where to enqueue, how many rows to cover, which types.
#pragma once
#include "backend.h"
#include "runtime.h"
#include "step_view.cuh"

namespace chai::cuda {

struct StepLaunch {
  Stream stream = nullptr;
  const StepView* view = nullptr;  // in device memory
  const Step* host = nullptr;      // the same step on the host; null while a graph is captured: nothing may then depend on its contents
  int rows = 0;                    // rows to cover: view->rows, or the bucket of a graph; kernels leave rows >= view->rows alone
  int sequences = 0;               // likewise
  int logit_rows = 0;              // likewise
  bool warm_up = false;            // some rows belong to warm-up segments
  bool prefill = false;            // some segment has more than one row; a captured graph never has
  Geometry geometry{};
  Element compute = Element::float16;  // weights, mixed: float16 or bfloat16
  Element cache = Element::float16;    // pages, queries: float16 or bfloat16, the same as compute unless the user chose otherwise
  const DeviceFacts* device = nullptr;
};

/// body(T{}) with T the 16-bit type of `type`.
template <class Body>
void with_type(Element type, Body&& body) {
  if (type == Element::bfloat16)
    body(__nv_bfloat16{});
  else
    body(__half{});
}

}  // namespace chai::cuda
