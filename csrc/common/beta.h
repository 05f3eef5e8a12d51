// beta = 1 / sigma^2, as every kernel computes it.
#pragma once

#include "common/hd.h"

namespace svgdx {

// Largest beta. 1 / sigma^2 overflows only where squared distances underflow, so that kappa is 0 or 1 in any case.
template <class C>
constexpr C kLargestBeta = sizeof(C) == 8 ? C(0x1p1022) : C(0x1p126f);

// The same in float64 if beta^2 times squared distances is formed.
constexpr double kLargestSquarableBeta = 0x1p400;

// sigma > 0; NaN stays NaN.
template <class C>
SVGDX_HD C beta_of_sigma(C sigma, C largest = kLargestBeta<C>) {
  const C beta = C(1) / (sigma * sigma);
  return beta > largest ? largest : beta;
}

}  // namespace svgdx
