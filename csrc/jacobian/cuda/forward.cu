#include "jacobian/cuda/forward.cuh"

namespace svgdx::cuda {

template void jacobian_forward(const JacobianArgs<float>&, void*);
template void jacobian_forward(const JacobianArgs<double>&, void*);

}  // namespace svgdx::cuda
