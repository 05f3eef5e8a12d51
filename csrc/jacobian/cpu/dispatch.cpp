#include <torch/csrc/stable/ops.h>

#include "jacobian/cpu/kernels.h"

namespace svgdx::cpu {
namespace {

// The fewest problems of this many particles that are worth a thread, about 2^16 multiply-adds: waking a thread for
// fewer takes longer than it saves.
template <class T>
int64_t grain(const JacobianArgs<T>& args, int64_t particles) {
  return 1 + (int64_t(1) << 16) / (particles * args.particles * (args.dim * args.dim + 16));
}

// The groups of a batch of small problems, 0 if its items are faster.
template <class T>
int64_t groups_of(const JacobianArgs<T>& args) {
  return SVGDX_ISA_CALL(jacobian_groups, args.batch, args.particles, args.dim, sizeof(T));
}

}  // namespace

template <class T>
void jacobian_forward(const JacobianArgs<T>& args, void*) {
  if (args.batch == 0 || args.particles == 0) return;
  if (const int64_t groups = groups_of(args)) {
    torch::stable::parallel_for(0, groups, grain(args, 4 * args.particles), [&](int64_t begin, int64_t end) {
      SVGDX_ISA_CALL(jacobian_forward_groups, args, begin, end);
    });
    return;
  }
  torch::stable::parallel_for(
      0, args.batch * jacobian_blocks(args.particles), grain(args, kJacobianBlock),
      [&](int64_t begin, int64_t end) { SVGDX_ISA_CALL(jacobian_forward_items, args, begin, end); });
}

template <class T>
void jacobian_backward(const JacobianGradArgs<T>& args, void*) {
  if (args.forward.batch == 0 || args.forward.particles == 0) return;
  if (const int64_t groups = groups_of(args.forward)) {
    torch::stable::parallel_for(
        0, groups, grain(args.forward, 4 * args.forward.particles),
        [&](int64_t begin, int64_t end) { SVGDX_ISA_CALL(jacobian_backward_groups, args, begin, end); });
    return;
  }
  const int64_t items = args.forward.batch * jacobian_blocks(args.forward.particles);
  torch::stable::parallel_for(0, items, grain(args.forward, kJacobianBlock), [&](int64_t begin, int64_t end) {
    SVGDX_ISA_CALL(jacobian_adjoint_items, args, begin, end);
  });
  torch::stable::parallel_for(0, items, grain(args.forward, kJacobianBlock), [&](int64_t begin, int64_t end) {
    SVGDX_ISA_CALL(jacobian_gather_items, args, begin, end);
  });
}

template void jacobian_forward(const JacobianArgs<float>&, void*);
template void jacobian_forward(const JacobianArgs<double>&, void*);
template void jacobian_backward(const JacobianGradArgs<float>&, void*);
template void jacobian_backward(const JacobianGradArgs<double>&, void*);

}  // namespace svgdx::cpu
