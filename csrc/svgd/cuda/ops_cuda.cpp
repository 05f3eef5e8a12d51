// CUDA registration of the SVGD ops: the device guard and torch's current stream around the launches.
#include <torch/csrc/stable/accelerator.h>

#include "svgd/register.h"

namespace svgdx {
namespace {

struct CudaBackend {
  struct Guard {
    explicit Guard(const Tensor& x) : guard(x.get_device_index()) {}
    torch::stable::accelerator::DeviceGuard guard;
  };
  static void* stream(const Tensor& x) {
    void* handle = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &handle));
    return handle;
  }
  static Tensor scratch(const Tensor& like, int64_t bytes) { return new_empty(like, {bytes}, ScalarType::Byte); }
  SVGDX_SVGD_BACKEND_MEMBERS(cuda)
};

}  // namespace
}  // namespace svgdx

STABLE_TORCH_LIBRARY_IMPL(svgdx, CUDA, m) { SVGDX_SVGD_IMPLS(m, ::svgdx::CudaBackend) }
