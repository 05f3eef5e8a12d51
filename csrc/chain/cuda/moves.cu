#include "chain/cuda/moves.cuh"

namespace svgdx::cuda {

#define SVGDX_INSTANTIATE(T)                                 \
  template void chain_moved(const MovedArgs<T>&, void*);     \
  template void chain_inverse(const InverseArgs<T>&, void*); \
  template void chain_accept(const AcceptArgs<T>&, void*);   \
  template void chain_accept_backward(const AcceptGradArgs<T>&, void*);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)

}  // namespace svgdx::cuda
