// Base of every family's CUDA backend: the device guard and torch's current stream.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include "common/tensors.h"

namespace svgdx {

struct CudaDevice {
  struct Guard {
    explicit Guard(const Tensor& x) : guard(x.get_device_index()) {}
    torch::stable::accelerator::DeviceGuard guard;
  };
  static void* stream(const Tensor& x) {
    void* handle = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &handle));
    return handle;
  }
};

}  // namespace svgdx
