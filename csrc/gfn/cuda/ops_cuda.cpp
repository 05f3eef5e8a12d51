// CUDA registration of the GFlowNet ops: the device guard and torch's current stream around the launches.
#include <torch/csrc/stable/accelerator.h>

#include "gfn/register.h"

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
  // One after the other: the stream orders them.
  template <class F>
  static void for_blocks(int64_t count, F f) {
    f(0, count);
  }
  SVGDX_GFN_BACKEND_MEMBERS(cuda)
};

}  // namespace
}  // namespace svgdx

STABLE_TORCH_LIBRARY_IMPL(svgdx, CUDA, m) { SVGDX_GFN_IMPLS(m, ::svgdx::CudaBackend) }
