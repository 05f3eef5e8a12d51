#include "mlp/cuda/twin.cuh"

namespace svgdx::cuda {

#define SVGDX_INSTANTIATE(C)                                 \
  template void twin_layer(const TwinLayer<C>&, void*);      \
  template void twin_back(const TwinBack<C>&, void*);        \
  template void twin_along(const TwinAlong<C>&, void*);      \
  template void twin_along_back(const TwinAlong<C>&, void*); \
  template void twin_minimum(const TwinMinimum<C>&, void*);  \
  template void twin_choice(const TwinChoice<C>&, void*);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)

}  // namespace svgdx::cuda
