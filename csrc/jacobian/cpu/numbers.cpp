// Overloads of the Jacobian ops for Python numbers.
#include "common/dispatch.h"
#include "common/number.h"
#include "common/registration.h"

namespace svgdx {
namespace {

Tensor sqnorm_number(const Tensor& x, const Tensor& score, double bandwidth, const OptionalTensor& probe,
                     const OptionalTensor& hvp) {
  const Tensor sigma = number("svgd_jacobian_sqnorm", "bandwidth", bandwidth, true);
  return std::get<0>(call<Tensor>("svgd_jacobian_sqnorm", x, score, sigma, probe, hvp));
}

Tensor logdet_number(const Tensor& x, const Tensor& score, double bandwidth, double step_size,
                     const OptionalTensor& hessian) {
  return std::get<0>(call<Tensor>("svgd_logdet", x, score, number("svgd_logdet", "bandwidth", bandwidth, true),
                                  number("svgd_logdet", "step_size", step_size, false), hessian));
}

SVGDX_OPS_BY(CompositeImplicitAutograd, m) {
  m.op(
      "svgd_jacobian_sqnorm.number(Tensor x, Tensor score, float bandwidth, Tensor? probe=None, Tensor? hvp=None) -> "
      "Tensor",
      TORCH_BOX(&sqnorm_number));
  m.op("svgd_logdet.number(Tensor x, Tensor score, float bandwidth, float step_size, Tensor? hessian=None) -> Tensor",
       TORCH_BOX(&logdet_number));
}

}  // namespace
}  // namespace svgdx
