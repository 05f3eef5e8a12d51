// CUDA registration of the SVGD ops.
#include "common/cuda/device.h"
#include "svgd/register.h"

namespace svgdx {
namespace {

struct CudaBackend : CudaDevice {
  static Tensor scratch(const Tensor& like, int64_t bytes) { return new_empty(like, {bytes}, ScalarType::Byte); }
  SVGDX_SVGD_BACKEND_MEMBERS(cuda)
};

}  // namespace
}  // namespace svgdx

STABLE_TORCH_LIBRARY_IMPL(svgdx, CUDA, m) { SVGDX_SVGD_IMPLS(m, ::svgdx::CudaBackend) }
