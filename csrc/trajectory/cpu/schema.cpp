// Schemas of the trajectory ops, and the public ops without the outputs that only the gradient needs.
#include "common/backend.h"
#include "common/dispatch.h"

namespace svgdx {
namespace {

std::tuple<Tensor, Tensor> trajectory(const Tensor& logits, const Tensor& actions, const OptionalTensor& initial) {
  const auto [log_pf, log_pb, normalizers] =
      call<Tensor, Tensor, Tensor>("gfn_trajectory_log_prob_forward", logits, actions, initial);
  return {log_pf, log_pb};
}

std::tuple<Tensor, Tensor> linear(const Tensor& hidden, const Tensor& weight, const OptionalTensor& bias,
                                  const Tensor& actions, const OptionalTensor& initial) {
  const auto [log_pf, log_pb, normalizers] =
      call<Tensor, Tensor, Tensor>("linear_trajectory_log_prob_forward", hidden, weight, bias, actions, initial);
  return {log_pf, log_pb};
}

Tensor masked(const Tensor& logits, const Tensor& mask, const Tensor& actions, const Tensor& offsets) {
  return std::get<0>(call<Tensor, Tensor>("masked_trajectory_log_prob_forward", logits, mask, actions, offsets));
}

}  // namespace
}  // namespace svgdx

SVGDX_LIBRARY(m) {
  m.def("gfn_trajectory_log_prob(Tensor logits, Tensor actions, Tensor? initial_state=None) -> (Tensor, Tensor)");
  m.def(
      "gfn_trajectory_log_prob_forward(Tensor logits, Tensor actions, Tensor? initial_state=None) -> (Tensor, Tensor, "
      "Tensor)");
  m.def(
      "gfn_trajectory_log_prob_backward(Tensor? grad_log_pf, Tensor? grad_log_pb, Tensor logits, Tensor actions, "
      "Tensor? "
      "initial_state, Tensor normalizers) -> Tensor");
  m.def(
      "linear_trajectory_log_prob(Tensor hidden, Tensor weight, Tensor? bias, Tensor actions, Tensor? "
      "initial_state=None) -> (Tensor, Tensor)");
  m.def(
      "linear_trajectory_log_prob_forward(Tensor hidden, Tensor weight, Tensor? bias, Tensor actions, Tensor? "
      "initial_state=None) -> (Tensor, Tensor, Tensor)");
  m.def(
      "linear_trajectory_log_prob_backward(Tensor? grad_log_pf, Tensor? grad_log_pb, Tensor hidden, Tensor weight, "
      "Tensor? bias, Tensor actions, Tensor? initial_state, Tensor normalizers) -> (Tensor, Tensor, Tensor)");
  m.def("masked_trajectory_log_prob(Tensor logits, Tensor mask, Tensor actions, Tensor offsets) -> Tensor");
  m.def(
      "masked_trajectory_log_prob_forward(Tensor logits, Tensor mask, Tensor actions, Tensor offsets) -> (Tensor, "
      "Tensor)");
  m.def(
      "masked_trajectory_log_prob_backward(Tensor grad, Tensor logits, Tensor mask, Tensor actions, Tensor offsets, "
      "Tensor normalizers) -> Tensor");
}

SVGDX_IMPL(CompositeImplicitAutograd, m) {
  m.impl("gfn_trajectory_log_prob", TORCH_BOX(&svgdx::trajectory));
  m.impl("linear_trajectory_log_prob", TORCH_BOX(&svgdx::linear));
  m.impl("masked_trajectory_log_prob", TORCH_BOX(&svgdx::masked));
}
