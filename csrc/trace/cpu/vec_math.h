// Exponentials of SIMD vectors, as trace/activation.h asks for them.
#pragma once

#include "common/vec.h"

namespace svgdx::SVGDX_ISA {

template <class C>
struct VecMath {
  using V = Vec<C>;
  using Number = C;
  static constexpr int kTerms = sizeof(C) == 8 ? 17 : 8;

  static SVGDX_INLINE V splat(double v) { return V{} + C(v); }

  // For x <= 0.
  static SVGDX_INLINE V exp(V x) { return exp2_nonpositive<C>(x * splat(1.4426950408889634)); }

  // For x <= 0. Above -1/4 by Taylor's series, where the difference would lose digits; its remainder is below eps.
  static SVGDX_INLINE V expm1(V x) {
    const V zero = V{}, near = x > splat(-0.25) ? x : zero;
    V sum = splat(1);
    for (int k = sizeof(C) == 8 ? 12 : 6; k >= 2; --k) sum = sum * near * splat(1.0 / k) + splat(1);
    return x > splat(-0.25) ? near * sum : exp(x) - splat(1);
  }

  // For 0 <= u <= 1: 2 artanh(w), w = u / (2 + u) <= 1/3, whose series falls by a factor 9 each term.
  static SVGDX_INLINE V log1p(V u) {
    const V w = u / (u + splat(2)), square = w * w;
    V sum = splat(1.0 / (2 * kTerms + 1));
    for (int k = kTerms - 1; k >= 0; --k) sum = sum * square + splat(1.0 / (2 * k + 1));
    return splat(2) * w * sum;
  }
};

}  // namespace svgdx::SVGDX_ISA
