#include "jacobian/cuda/gram_adjoint.cuh"
#include "jacobian/cuda/matrix.cuh"

namespace svgdx::cuda {

#define SVGDX_INSTANTIATE(T)                                \
  template void gram_rows(const GramInputs<T>&, void*);     \
  template void gram_dots(const GramPairs<T>&, void*);      \
  template void gram_kernel(const GramPairs<T>&, void*);    \
  template void gram_finish(const GramPairs<T>&, void*);    \
  template void gram_adjoint(const GramGrads<T>&, void*);   \
  template void gram_gradients(const GramGrads<T>&, void*); \
  template void matrix_forward(const JacobianArgs<T>&, void*);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)

}  // namespace svgdx::cuda
