// The public trajectory ops, without the outputs that only the gradient needs.
#include "common/dispatch.h"
#include "common/registration.h"

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

SVGDX_OPS_BY(CompositeImplicitAutograd, m) {
  m.op("gfn_trajectory_log_prob(Tensor logits, Tensor actions, Tensor? initial_state=None) -> (Tensor, Tensor)",
       TORCH_BOX(&trajectory));
  m.op(
      "linear_trajectory_log_prob(Tensor hidden, Tensor weight, Tensor? bias, Tensor actions, Tensor? "
      "initial_state=None) -> (Tensor, Tensor)",
      TORCH_BOX(&linear));
  m.op("masked_trajectory_log_prob(Tensor logits, Tensor mask, Tensor actions, Tensor offsets) -> Tensor",
       TORCH_BOX(&masked));
}

}  // namespace
}  // namespace svgdx
