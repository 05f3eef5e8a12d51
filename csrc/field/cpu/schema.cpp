// Schemas of the field ops and their overloads for Python numbers.
#include "common/backend.h"
#include "common/dispatch.h"
#include "common/number.h"

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

}  // namespace
}  // namespace svgdx

SVGDX_LIBRARY(m) {
  m.def("svgd_phi(Tensor x, Tensor score, Tensor bandwidth) -> Tensor");
  m.def("svgd_phi.number(Tensor x, Tensor score, float bandwidth) -> Tensor");
  m.def("svgd_phi_trace(Tensor x, Tensor score, Tensor bandwidth) -> (Tensor, Tensor)");
  m.def("svgd_phi_trace.number(Tensor x, Tensor score, float bandwidth) -> (Tensor, Tensor)");
  m.def(
      "svgd_phi_trace_backward(Tensor? grad_phi, Tensor? grad_trace, Tensor x, Tensor score, Tensor bandwidth) -> "
      "(Tensor, Tensor, Tensor)");
  m.def(
      "svgd_step(Tensor x, Tensor score, Tensor bandwidth, Tensor step_size, Tensor log_q, Tensor? hessian_trace=None) "
      "-> (Tensor, Tensor)");
  m.def(
      "svgd_step.number(Tensor x, Tensor score, float bandwidth, float step_size, Tensor log_q, Tensor? "
      "hessian_trace=None) -> (Tensor, Tensor)");
  m.def(
      "svgd_step_backward(Tensor? grad_x_next, Tensor? grad_log_q_next, Tensor x, Tensor score, Tensor bandwidth, "
      "Tensor step_size, Tensor? hessian_trace) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("svgd_field(Tensor query, Tensor x, Tensor score, Tensor bandwidth) -> (Tensor, Tensor)");
  m.def("svgd_field.number(Tensor query, Tensor x, Tensor score, float bandwidth) -> (Tensor, Tensor)");
  m.def(
      "svgd_field_backward(Tensor? grad_phi, Tensor? grad_divergence, Tensor query, Tensor x, Tensor score, Tensor "
      "bandwidth) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def("ksd(Tensor x, Tensor score, Tensor bandwidth, bool unbiased=True) -> Tensor");
  m.def("ksd.number(Tensor x, Tensor score, float bandwidth, bool unbiased=True) -> Tensor");
  m.def(
      "ksd_backward(Tensor grad, Tensor x, Tensor score, Tensor bandwidth, bool unbiased) -> (Tensor, Tensor, Tensor)");
}

SVGDX_IMPL(CompositeImplicitAutograd, m) {
  m.impl("svgd_phi.number", TORCH_BOX(&svgdx::phi_number));
  m.impl("svgd_phi_trace.number", TORCH_BOX(&svgdx::phi_trace_number));
  m.impl("svgd_step.number", TORCH_BOX(&svgdx::step_number));
  m.impl("svgd_field.number", TORCH_BOX(&svgdx::field_number));
  m.impl("ksd.number", TORCH_BOX(&svgdx::ksd_number));
}
