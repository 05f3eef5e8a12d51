// Schemas of the Jacobian ops and their overloads for Python numbers.
#include "common/backend.h"
#include "common/dispatch.h"
#include "common/number.h"

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

}  // namespace
}  // namespace svgdx

SVGDX_LIBRARY(m) {
  m.def(
      "svgd_jacobian_sqnorm(Tensor x, Tensor score, Tensor bandwidth, Tensor? probe=None, Tensor? hvp=None) -> Tensor");
  m.def(
      "svgd_jacobian_sqnorm.number(Tensor x, Tensor score, float bandwidth, Tensor? probe=None, Tensor? hvp=None) -> "
      "Tensor");
  m.def(
      "svgd_jacobian_sqnorm_backward(Tensor grad, Tensor x, Tensor score, Tensor bandwidth, Tensor? probe, Tensor? hvp)"
      " -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("svgd_logdet(Tensor x, Tensor score, Tensor bandwidth, Tensor step_size, Tensor? hessian=None) -> Tensor");
  m.def("svgd_logdet.number(Tensor x, Tensor score, float bandwidth, float step_size, Tensor? hessian=None) -> Tensor");
  m.def(
      "svgd_logdet_backward(Tensor grad, Tensor x, Tensor score, Tensor bandwidth, Tensor step_size, Tensor? hessian) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

SVGDX_IMPL(CompositeImplicitAutograd, m) {
  m.impl("svgd_jacobian_sqnorm.number", TORCH_BOX(&svgdx::sqnorm_number));
  m.impl("svgd_logdet.number", TORCH_BOX(&svgdx::logdet_number));
}
