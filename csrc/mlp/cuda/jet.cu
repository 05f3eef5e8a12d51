#include "mlp/cuda/jet.cuh"

namespace svgdx::cuda {

template void mlp_forward(const MlpForward<float>&, void*);
template void mlp_forward(const MlpForward<double>&, void*);
template void mlp_reverse(const MlpReverse<float>&, void*);
template void mlp_reverse(const MlpReverse<double>&, void*);

}  // namespace svgdx::cuda
