// CUDA registration of the GFlowNet ops.
#include "common/cuda/device.h"
#include "gfn/register.h"

namespace svgdx {
namespace {

struct CudaBackend : CudaDevice {
  // Blocks run one after another; the stream orders them.
  template <class F>
  static void for_blocks(int64_t count, F f) {
    f(0, count);
  }
  SVGDX_GFN_BACKEND_MEMBERS(cuda)
};

}  // namespace
}  // namespace svgdx

STABLE_TORCH_LIBRARY_IMPL(svgdx, CUDA, m) { SVGDX_GFN_IMPLS(m, ::svgdx::CudaBackend) }
