// CUDA registration of the Hessian-trace ops.
#include "common/cuda/device.h"
#include "trace/register.h"

namespace svgdx {
namespace {

struct CudaBackend : CudaDevice {
  // Rows per block, whose layers take a few times 2^23 numbers of memory each; most calls need one block.
  static int64_t mlp_rows(int64_t rows, int64_t width) {
    return std::min<int64_t>(rows, std::max<int64_t>(1, (int64_t(1) << 23) / width));
  }
  // Blocks run one after another; the stream orders them.
  template <class F>
  static void for_blocks(int64_t count, F f) {
    f(0, count);
  }
  SVGDX_TRACE_BACKEND_MEMBERS(cuda)
};

}  // namespace
}  // namespace svgdx

STABLE_TORCH_LIBRARY_IMPL(svgdx, CUDA, m) { SVGDX_TRACE_IMPLS(m, ::svgdx::CudaBackend) }
