// Overloads of the field ops for Python numbers.
#include "common/dispatch.h"
#include "common/number.h"
#include "common/registration.h"

namespace svgdx {
namespace {

Tensor phi_number(const Tensor& x, const Tensor& score, double bandwidth) {
  return std::get<0>(call<Tensor>("svgd_phi", x, score, number("svgd_phi", "bandwidth", bandwidth, true)));
}

std::tuple<Tensor, Tensor> phi_trace_number(const Tensor& x, const Tensor& score, double bandwidth) {
  return call<Tensor, Tensor>("svgd_phi_trace", x, score, number("svgd_phi_trace", "bandwidth", bandwidth, true));
}

std::tuple<Tensor, Tensor> step_number(const Tensor& x, const Tensor& score, double bandwidth, double step_size,
                                       const Tensor& log_q, const OptionalTensor& hessian_trace) {
  return call<Tensor, Tensor>("svgd_step", x, score, number("svgd_step", "bandwidth", bandwidth, true),
                              number("svgd_step", "step_size", step_size, false), log_q, hessian_trace);
}

std::tuple<Tensor, Tensor> field_number(const Tensor& query, const Tensor& x, const Tensor& score, double bandwidth) {
  return call<Tensor, Tensor>("svgd_field", query, x, score, number("svgd_field", "bandwidth", bandwidth, true));
}

Tensor ksd_number(const Tensor& x, const Tensor& score, double bandwidth, bool unbiased) {
  return std::get<0>(call<Tensor>("ksd", x, score, number("ksd", "bandwidth", bandwidth, true), unbiased));
}

SVGDX_OPS_BY(CompositeImplicitAutograd, m) {
  m.op("svgd_phi.number(Tensor x, Tensor score, float bandwidth) -> Tensor", TORCH_BOX(&phi_number));
  m.op("svgd_phi_trace.number(Tensor x, Tensor score, float bandwidth) -> (Tensor, Tensor)",
       TORCH_BOX(&phi_trace_number));
  m.op(
      "svgd_step.number(Tensor x, Tensor score, float bandwidth, float step_size, Tensor log_q, Tensor? "
      "hessian_trace=None) -> (Tensor, Tensor)",
      TORCH_BOX(&step_number));
  m.op("svgd_field.number(Tensor query, Tensor x, Tensor score, float bandwidth) -> (Tensor, Tensor)",
       TORCH_BOX(&field_number));
  m.op("ksd.number(Tensor x, Tensor score, float bandwidth, bool unbiased=True) -> Tensor", TORCH_BOX(&ksd_number));
}

}  // namespace
}  // namespace svgdx
