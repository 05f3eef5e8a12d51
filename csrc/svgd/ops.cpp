// Schemas of the SVGD ops, their overloads for Python numbers, and their CPU registration.
#include "common/cpu_device.h"
#include "common/dispatch.h"
#include "svgd/cpu/gram.h"
#include "svgd/register.h"

namespace svgdx {
namespace {

struct CpuBackend : CpuDevice {
  static Tensor scratch(const Tensor& like, int64_t bytes) { return new_empty(like, {bytes}, ScalarType::Byte); }
  static gram::Rows gram_rows(const Tensor& x, const Tensor& score, const Tensor& beta, const OptionalTensor& probe,
                              const OptionalTensor& hvp) {
    return cpu::gram_rows(x, score, beta, probe, hvp);
  }
  static Tensor gram_sqnorm(const gram::Rows& rows, const Tensor& beta) { return cpu::gram_sqnorm(rows, beta); }
  SVGDX_SVGD_BACKEND_MEMBERS(cpu)
};

Tensor number(const char* op, const char* name, double value, bool positive) {
  SVGDX_CHECK(std::isfinite(value) && (!positive || value > 0), op, name, " must be finite",
              positive ? " and positive" : "", ", but is ", value);
  return torch::stable::full({}, value, ScalarType::Double);
}

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
Tensor ksd_number(const Tensor& x, const Tensor& score, double bandwidth, bool unbiased) {
  return std::get<0>(call<Tensor>("ksd", x, score, number("ksd", "bandwidth", bandwidth, true), unbiased));
}

}  // namespace
}  // namespace svgdx

STABLE_TORCH_LIBRARY(svgdx, m) {
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
  m.def("ksd(Tensor x, Tensor score, Tensor bandwidth, bool unbiased=True) -> Tensor");
  m.def("ksd.number(Tensor x, Tensor score, float bandwidth, bool unbiased=True) -> Tensor");
  m.def(
      "ksd_backward(Tensor grad, Tensor x, Tensor score, Tensor bandwidth, bool unbiased) -> (Tensor, Tensor, Tensor)");
  m.def("median_distance(Tensor x) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(svgdx, CPU, m){SVGDX_SVGD_IMPLS(m, ::svgdx::CpuBackend)}

STABLE_TORCH_LIBRARY_IMPL(svgdx, CompositeImplicitAutograd, m) {
  m.impl("svgd_phi.number", TORCH_BOX(&::svgdx::phi_number));
  m.impl("svgd_phi_trace.number", TORCH_BOX(&::svgdx::phi_trace_number));
  m.impl("svgd_step.number", TORCH_BOX(&::svgdx::step_number));
  m.impl("svgd_field.number", TORCH_BOX(&::svgdx::field_number));
  m.impl("svgd_jacobian_sqnorm.number", TORCH_BOX(&::svgdx::sqnorm_number));
  m.impl("svgd_logdet.number", TORCH_BOX(&::svgdx::logdet_number));
  m.impl("ksd.number", TORCH_BOX(&::svgdx::ksd_number));
}
