// CUDA registration of the SVGD ops.
#include "common/cuda/device.h"
#include "svgd/register.h"

namespace svgdx {
namespace {

struct CudaBackend : CudaDevice {
  static Tensor scratch(const Tensor& like, int64_t bytes) { return new_empty(like, {bytes}, ScalarType::Byte); }
  static gram::Rows gram_rows(const Tensor& x, const Tensor& score, const Tensor& beta, const OptionalTensor& probe,
                              const OptionalTensor& hvp) {
    return gram::Rows(x, score, beta, probe, hvp);
  }
  static Tensor gram_sqnorm(const gram::Rows& rows, const Tensor& beta) { return gram::Chunk(rows, beta).sqnorm(); }
  SVGDX_SVGD_BACKEND_MEMBERS(cuda)
};

}  // namespace
}  // namespace svgdx

STABLE_TORCH_LIBRARY_IMPL(svgdx, CUDA, m) { SVGDX_SVGD_IMPLS(m, ::svgdx::CudaBackend) }
