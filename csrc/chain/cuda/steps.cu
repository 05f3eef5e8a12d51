#include "chain/cuda/steps.cuh"

namespace svgdx::cuda {

#define SVGDX_INSTANTIATE(T)                                          \
  template void chain_bound(const BoundArgs<T>&, void*);              \
  template void chain_bound_backward(const BoundGradArgs<T>&, void*); \
  template void chain_learnt(const LearntArgs<T>&, void*);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)

}  // namespace svgdx::cuda
