// The device guard and torch's current stream.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include "common/tensors.h"

namespace svgdx::cuda {

struct Guard {
  explicit Guard(const Tensor& x) : guard(x.get_device_index()) {}
  torch::stable::accelerator::DeviceGuard guard;
};

inline void* stream(const Tensor& x) {
  void* handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &handle));
  return handle;
}

// Rows and numbers of a matrix at a time between a product and the pass over its rows: enough to fill a GPU, because
// each block costs a launch of either.
constexpr int64_t kBlockRows = int64_t(1) << 16, kBlockNumbers = int64_t(1) << 23;

// Calls f(0, count): blocks run one after another, ordered by the stream.
template <class F>
void for_blocks(int64_t count, const F& f) {
  f(0, count);
}

}  // namespace svgdx::cuda
