// Exponentials of SIMD vectors, as mlp/activation.h needs them.
#pragma once

#include <array>

#include "common/vec.h"

namespace svgdx::SVGDX_ISA {

// Coefficients of (2^f - 1) / f on [-1/2, 1/2], highest power first, fitted at Chebyshev points; error below eps.
template <class C>
constexpr auto kExp2m1 = std::array<double, 13>{1.3716962402936005e-12, 2.5733568330831899e-11, 4.4455303090987326e-10,
                                                7.0548943863345513e-9,  1.0178086021185489e-7,  1.3215486816000008e-6,
                                                1.5252733804051129e-5,  1.5403530393362755e-4,  1.3333558146428446e-3,
                                                9.6181291076284831e-3,  5.5504108664821580e-2,  2.4022650695910071e-1,
                                                6.9314718055994531e-1};
template <>
constexpr auto kExp2m1<float> = std::array<double, 6>{1.545316297e-4, 1.339086339e-3, 9.618082557e-3,
                                                      5.550357114e-2, 2.402265076e-1, 6.93147188e-1};

template <class C>
struct VecMath {
  using V = Vec<C>;
  using Number = C;
  static constexpr int kTerms = sizeof(C) == 8 ? 17 : 8;

  static SVGDX_INLINE V splat(double v) { return V{} + C(v); }

  // For x <= 0.
  static SVGDX_INLINE V exp(V x) { return exp2_nonpositive<C>(x * splat(1.4426950408889634)); }

  // For x <= 0: (2^f - 1) 2^n + (2^n - 1), whose first term keeps full relative accuracy near 0.
  static SVGDX_INLINE V expm1(V x) {
    const V lowest = splat(sizeof(C) == 8 ? -1023 : -127), magic = splat(sizeof(C) == 8 ? 0x1.8p52 : 0x1.8p23);
    const V scaled = x * splat(1.4426950408889634), y = lowest > scaled ? lowest : scaled, rounded = y + magic;
    const V f = y - (rounded - magic);
    V q{};
    for (const double term : kExp2m1<C>) q = q * f + splat(term);
    const V power = scale_by_power<C, sizeof(C) == 8 ? 52 : 23>(splat(1), rounded);
    return f * q * power + (power - splat(1));
  }

  // For 0 <= u <= 1: 2 artanh(w), w = u / (2 + u) <= 1/3, whose series decreases at least 9-fold per term.
  static SVGDX_INLINE V log1p(V u) {
    const V w = u / (u + splat(2)), square = w * w;
    V sum = splat(1.0 / (2 * kTerms + 1));
    for (int k = kTerms - 1; k >= 0; --k) sum = sum * square + splat(1.0 / (2 * k + 1));
    return splat(2) * w * sum;
  }
};

}  // namespace svgdx::SVGDX_ISA
