#include <torch/csrc/stable/ops.h>

#include "jacobian/cpu/kernels.h"

namespace svgdx::cpu {
namespace {

// Fewest items per thread, about 2^16 multiply-adds: with fewer, waking a thread costs more than it saves.
template <class T>
int64_t grain(const JacobianArgs<T>& args) {
  const int64_t per_item = kJacobianBlock * args.particles * (args.dim * args.dim + 16);
  return 1 + (int64_t(1) << 16) / per_item;
}

}  // namespace

template <class T>
void jacobian_forward(const JacobianArgs<T>& args, void*) {
  if (args.batch == 0 || args.particles == 0) return;
  torch::stable::parallel_for(
      0, args.batch * jacobian_blocks(args.particles), grain(args),
      [&](int64_t begin, int64_t end) { SVGDX_ISA_CALL(jacobian_forward_items, args, begin, end); });
}

template <class T>
void jacobian_backward(const JacobianGradArgs<T>& args, void*) {
  if (args.forward.batch == 0 || args.forward.particles == 0) return;
  const int64_t items = args.forward.batch * jacobian_blocks(args.forward.particles);
  torch::stable::parallel_for(0, items, grain(args.forward), [&](int64_t begin, int64_t end) {
    SVGDX_ISA_CALL(jacobian_adjoint_items, args, begin, end);
  });
  torch::stable::parallel_for(0, items, grain(args.forward), [&](int64_t begin, int64_t end) {
    SVGDX_ISA_CALL(jacobian_gather_items, args, begin, end);
  });
}

template void jacobian_forward(const JacobianArgs<float>&, void*);
template void jacobian_forward(const JacobianArgs<double>&, void*);
template void jacobian_backward(const JacobianGradArgs<float>&, void*);
template void jacobian_backward(const JacobianGradArgs<double>&, void*);

}  // namespace svgdx::cpu
