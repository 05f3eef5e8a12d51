// The derivatives of an activation from its value, so that its argument need not be stored; V and Math as in
// mlp/activation.h.
#pragma once

#include "mlp/activation.h"

namespace svgdx {

// a'(z), a''(z) and a'''(z).
template <class V>
struct Curves {
  V slope, second, third;
};

template <Activation kKind, class Math>
SVGDX_HD Curves<typename Math::V> curves(typename Math::V a) {
  using V = typename Math::V;
  const V zero = V{}, one = Math::splat(1), two = Math::splat(2);
  if constexpr (kKind == Activation::elu) {
    const V slope = a > zero ? one : a + one, second = a < zero ? slope : zero;
    return {slope, second, second};
  } else if constexpr (kKind == Activation::softplus) {
    const V slope = -Math::expm1(-a), second = slope * (one - slope);
    return {slope, second, second * (one - two * slope)};
  } else if constexpr (kKind == Activation::tanh) {
    const V slope = one - a * a;
    return {slope, -two * a * slope, two * slope * (two - Math::splat(3) * slope)};
  } else {
    return {a > zero ? one : zero, zero, zero};
  }
}

// Calls f with the tag of one of these activations.
template <class F>
SVGDX_HD void with_curves(Activation kind, F f) {
  switch (kind) {
    case Activation::tanh:
      return f(ActivationTag<Activation::tanh>{});
    case Activation::softplus:
      return f(ActivationTag<Activation::softplus>{});
    case Activation::elu:
      return f(ActivationTag<Activation::elu>{});
    default:
      return f(ActivationTag<Activation::relu>{});
  }
}

}  // namespace svgdx
