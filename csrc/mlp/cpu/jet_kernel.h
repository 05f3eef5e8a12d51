// The passes of mlp/args.h for one SIMD level.
#pragma once

#include "common/isa.h"
#include "mlp/args.h"

SVGDX_ISA_DECLARE(template <class C> void mlp_forward(const MlpForward<C>& args);
                  template <class C> void mlp_reverse(const MlpReverse<C>& args);
                  template <class C> void mlp_laplacian(const MlpLaplacian<C>& args);
                  template <class C> void mlp_laplacian_reverse(const MlpLaplacianReverse<C>& args);)
