#include "mlp/cuda/visit.cuh"

namespace svgdx::cuda {

#define SVGDX_INSTANTIATE(S)                                        \
  template void rollout_visit(const RolloutVisit<S>&, void*);       \
  template void rollout_activate(const RolloutActivate<S>&, void*); \
  template void rollout_gather(const RolloutGather<S>&, void*);     \
  template void rollout_activate_backward(int64_t, const S*, S, S*, void*);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)

}  // namespace svgdx::cuda
