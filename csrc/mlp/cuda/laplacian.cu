#include "mlp/cuda/laplacian.cuh"

namespace svgdx::cuda {

template void mlp_laplacian(const MlpLaplacian<float>&, void*);
template void mlp_laplacian(const MlpLaplacian<double>&, void*);
template void mlp_laplacian_reverse(const MlpLaplacianReverse<float>&, void*);
template void mlp_laplacian_reverse(const MlpLaplacianReverse<double>&, void*);

}  // namespace svgdx::cuda
