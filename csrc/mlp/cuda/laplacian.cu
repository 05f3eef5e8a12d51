#include "mlp/cuda/laplacian.cuh"

namespace svgdx::cuda {

template void mlp_laplacian(const MlpLaplacian<float>&, void*);
template void mlp_laplacian(const MlpLaplacian<double>&, void*);

}  // namespace svgdx::cuda
