#include "jacobian/cuda/backward.cuh"

namespace svgdx::cuda {

template void jacobian_backward(const JacobianGradArgs<float>&, void*);
template void jacobian_backward(const JacobianGradArgs<double>&, void*);

}  // namespace svgdx::cuda
