// Schemas of the Hessian-trace ops and their CPU registration.
#include "common/cpu_device.h"
#include "trace/register.h"

namespace svgdx {
namespace {

struct CpuBackend : CpuDevice {
  // Rows per block: few enough that its layers stay in a core's cache and that several threads get blocks.
  static int64_t mlp_rows(int64_t rows, int64_t width) {
    const int64_t fits = std::max<int64_t>(16, std::min<int64_t>(128, 16384 / width));
    return std::min<int64_t>(fits, rows >= 128 ? 64 : rows >= 64 ? 32 : 16);
  }
  // At least two items make the loop a parallel region, in which torch's product stays on its own thread.
  template <class F>
  static void for_blocks(int64_t count, F f) {
    torch::stable::parallel_for(0, std::max<int64_t>(2, count), 1,
                                [&](int64_t begin, int64_t end) { f(begin, std::min(end, count)); });
  }
  SVGDX_TRACE_BACKEND_MEMBERS(cpu)
};

}  // namespace
}  // namespace svgdx

STABLE_TORCH_LIBRARY_FRAGMENT(svgdx, m) {
  m.def("rademacher(Tensor like, SymInt seed, SymInt offset) -> Tensor");
  m.def("probe_trace(Tensor probe, Tensor hvp) -> (Tensor, Tensor)");
  m.def(
      "mlp_score_hvp(Tensor x, Tensor? condition, Tensor probe, Tensor parameters, Tensor widths, int activation) -> "
      "(Tensor, Tensor, Tensor)");
  m.def(
      "mlp_laplacian(Tensor x, Tensor? condition, Tensor parameters, Tensor widths, int activation) -> (Tensor, "
      "Tensor, Tensor)");
  m.def("probe_trace_backward(Tensor? grad_mean, Tensor? grad_variance, Tensor probe, Tensor hvp) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(svgdx, CPU, m) { SVGDX_TRACE_IMPLS(m, ::svgdx::CpuBackend) }
