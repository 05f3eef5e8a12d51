// Schemas of the Hessian-trace ops and the CPU registration.
#include "common/cpu_device.h"
#include "trace/register.h"

namespace svgdx {
namespace {

struct CpuBackend : CpuDevice {
  SVGDX_TRACE_BACKEND_MEMBERS(cpu)
};

}  // namespace
}  // namespace svgdx

STABLE_TORCH_LIBRARY_FRAGMENT(svgdx, m) {
  m.def("rademacher(Tensor like, SymInt seed, SymInt offset) -> Tensor");
  m.def("probe_trace(Tensor probe, Tensor hvp) -> (Tensor, Tensor)");
  m.def("probe_trace_backward(Tensor? grad_mean, Tensor? grad_variance, Tensor probe, Tensor hvp) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(svgdx, CPU, m) { SVGDX_TRACE_IMPLS(m, ::svgdx::CpuBackend) }
