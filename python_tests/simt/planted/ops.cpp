#include "planted/ops.h"

#include "common/cuda/device.h"
#include "common/registration.h"

namespace svgdx::cuda {

// 2 x, for a float32 tensor.
static Tensor twice(const Tensor& x, int64_t mistake) {
  std::optional<Guard> guard;
  if (mistake != kNoGuard) guard.emplace(x);
  const std::vector<float> host(size_t(x.numel()));
  const Tensor result = new_empty(x, sizes_of(x), ScalarType::Float);
  const Tensor empty = new_empty(x, sizes_of(x), ScalarType::Float);
  const float* from = mistake == kHostMemory ? host.data() : data<float>(mistake == kEmptyInput ? empty : x);
  planted_twice(mistake, x.numel(), from, out<float>(result), stream(x));
  return mistake == kTorchReadsUnwritten ? torch::stable::subtract(result, x, 0.0) : result;
}

SVGDX_OPS(m) { m.impl("planted_twice", TORCH_BOX(&twice)); }

}  // namespace svgdx::cuda
