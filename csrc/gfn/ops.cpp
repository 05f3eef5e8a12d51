// Schemas of the GFlowNet ops and their CPU registration.
#include "common/cpu_device.h"
#include "common/dispatch.h"
#include "gfn/register.h"

namespace svgdx {
namespace {

struct CpuBackend : CpuDevice {
  // At least two items make the loop a parallel region, in which torch's product stays on its own thread.
  template <class F>
  static void for_blocks(int64_t count, F f) {
    torch::stable::parallel_for(0, std::max<int64_t>(2, count), 1,
                                [&](int64_t begin, int64_t end) { f(begin, std::min(end, count)); });
  }
  SVGDX_GFN_BACKEND_MEMBERS(cpu)
};

// The public ops do not return the outputs that only the gradient needs.
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

STABLE_TORCH_LIBRARY_FRAGMENT(svgdx, m) {
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
  m.def(
      "gfn_sample_forward(Tensor logits, Tensor state, SymInt seed, SymInt offset, float temperature=1.0, float "
      "epsilon=0.0) -> (Tensor, Tensor, Tensor)");
  m.def(
      "gfn_sample_backward(Tensor logits, Tensor state, SymInt seed, SymInt offset, float temperature=1.0, float "
      "epsilon=0.0) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(svgdx, CPU, m){SVGDX_GFN_IMPLS(m, ::svgdx::CpuBackend)}

STABLE_TORCH_LIBRARY_IMPL(svgdx, CompositeImplicitAutograd, m) {
  m.impl("gfn_trajectory_log_prob", TORCH_BOX(&::svgdx::trajectory));
  m.impl("linear_trajectory_log_prob", TORCH_BOX(&::svgdx::linear));
  m.impl("masked_trajectory_log_prob", TORCH_BOX(&::svgdx::masked));
}
