#include "mlp/cuda/tanh_target.cuh"

namespace svgdx::cuda {

#define SVGDX_INSTANTIATE(C)                                             \
  template void tanh_target_begin(const TanhTarget<C>&, void*);          \
  template void tanh_target_end(const TanhTarget<C>&, void*);            \
  template void tanh_target_back_begin(const TanhTargetGrad<C>&, void*); \
  template void tanh_target_back_end(const TanhTargetGrad<C>&, void*);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)

}  // namespace svgdx::cuda
