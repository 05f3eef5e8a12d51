// The scaled complementary error function exp(x^2) erfc(x), which stays positive where erfc underflows.
#pragma once

#include "common/hd.h"

namespace svgdx {

template <class Math, int kTerms>
SVGDX_HD typename Math::V polynomial(const double (&coefficients)[kTerms], typename Math::V u) {
  typename Math::V sum = Math::splat(coefficients[kTerms - 1]);
  for (int k = kTerms - 2; k >= 0; --k) sum = sum * u + Math::splat(coefficients[k]);
  return sum;
}

// For x >= 0. Beyond the limit, where erfc is below the smallest normal number, returns the value at the limit. The
// relative error is below 4 eps: (x + 3) erfcx(x) is a polynomial in u, which runs from -1 at 0 to 1 at the limit and
// is linear in 1 / (x + 3), with the coefficients of the truncated Chebyshev series (the mapping is that of Shepherd &
// Laframboise, Math. Comp. 1981).
template <class Math>
SVGDX_HD typename Math::V erfcx_nonnegative(typename Math::V x) {
  using V = typename Math::V;
  constexpr bool kDouble = sizeof(typename Math::Number) == 8;
  constexpr double kLimit = kDouble ? 27 : 10.5;
  const V limit = Math::splat(kLimit), nearness = Math::splat(1) / ((x > limit ? limit : x) + Math::splat(3));
  const V u = Math::splat(1 + 6 / kLimit) - Math::splat(6 + 18 / kLimit) * nearness;
  if constexpr (kDouble) {
    constexpr double kCoefficients[] = {
        1.1685713227657257,      -0.91012101544264778,   0.55955286292423356,    -0.26311501008590976,
        0.087031570527133242,    -0.015019508411685775,  -0.0018411424172472266, 0.0016076968914743878,
        -1.1046603992769235e-4,  -1.4108546871516135e-4, 2.2383957296676387e-5,  1.468712603595725e-5,
        -2.6261891899746529e-6,  -1.8809516019729797e-6, 2.1861578871912531e-7,  2.7011475933895959e-7,
        -8.7381086272801799e-10, -3.8058977848254156e-8, -4.0178359435047014e-9, 4.4553761594749866e-9,
        6.0414786373499303e-10,  -3.1179347541889785e-10};
    return polynomial<Math>(kCoefficients, u) * nearness;
  } else {
    constexpr double kCoefficients[] = {1.30317676,    -0.931218207,   0.505417287,    -0.202047586,  0.0538678318,
                                        -0.0062088524, -0.00141417608, 0.000579048239, 2.26565026e-5, -3.40762708e-5};
    return polynomial<Math>(kCoefficients, u) * nearness;
  }
}

}  // namespace svgdx
