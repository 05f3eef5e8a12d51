// The CPU backend of mlp_score_hvp, mlp_laplacian and its gradient: every function processes one block of rows on the
// calling thread.
#include "mlp/cpu/jet_kernel.h"

namespace svgdx::cpu {

template <class C>
void mlp_forward(const MlpForward<C>& args, void*) {
  SVGDX_ISA_CALL(mlp_forward, args);
}

template <class C>
void mlp_reverse(const MlpReverse<C>& args, void*) {
  SVGDX_ISA_CALL(mlp_reverse, args);
}

template <class C>
void mlp_laplacian(const MlpLaplacian<C>& args, void*) {
  SVGDX_ISA_CALL(mlp_laplacian, args);
}

template <class C>
void mlp_laplacian_reverse(const MlpLaplacianReverse<C>& args, void*) {
  SVGDX_ISA_CALL(mlp_laplacian_reverse, args);
}

template void mlp_forward(const MlpForward<float>&, void*);
template void mlp_forward(const MlpForward<double>&, void*);
template void mlp_reverse(const MlpReverse<float>&, void*);
template void mlp_reverse(const MlpReverse<double>&, void*);
template void mlp_laplacian(const MlpLaplacian<float>&, void*);
template void mlp_laplacian(const MlpLaplacian<double>&, void*);
template void mlp_laplacian_reverse(const MlpLaplacianReverse<float>&, void*);
template void mlp_laplacian_reverse(const MlpLaplacianReverse<double>&, void*);

}  // namespace svgdx::cpu
