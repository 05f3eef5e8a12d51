// Exponentials of one number, as mlp/activation.h needs them.
#pragma once

#include <cmath>
#include <type_traits>

#include "common/cuda/simt_macros.cuh"
#include "common/hd.h"

namespace svgdx::cuda {

template <class C>
struct CudaMath {
  using V = C;
  using Number = C;
  static constexpr bool kFloat = std::is_same_v<C, float>;

  static SVGDX_HD C splat(double v) { return C(v); }
  static SVGDX_HD C exp(C x) {
    if constexpr (kFloat)
      return ::expf(x);
    else
      return ::exp(x);
  }
  static SVGDX_HD C expm1(C x) {
    if constexpr (kFloat)
      return ::expm1f(x);
    else
      return ::expm1(x);
  }
  static SVGDX_HD C log1p(C x) {
    if constexpr (kFloat)
      return ::log1pf(x);
    else
      return ::log1p(x);
  }
};

}  // namespace svgdx::cuda
