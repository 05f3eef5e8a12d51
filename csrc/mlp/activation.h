// Activations with their first three derivatives, equal to autograd's, in one evaluation. V is a number C or a SIMD
// vector of them; Math provides exponentials (common/vec_math.h, mlp/cuda/math.cuh).
#pragma once

#include <cstdint>

#include "common/hd.h"
#include "mlp/erfcx.h"

namespace svgdx {

enum class Activation : int64_t { silu, gelu, tanh, softplus, elu, relu };
constexpr int64_t kActivations = 6;

template <class V>
struct Jet {
  V value, first, second, third;
};

// The logistic function s and 1 - s, both computed without a difference, from e = exp(-|z|).
template <class Math>
SVGDX_HD Jet<typename Math::V> silu_jet(typename Math::V z) {
  using V = typename Math::V;
  const V zero = V{}, one = Math::splat(1), e = Math::exp(z < zero ? z : -z), whole = one / (one + e);
  const V s = (z < zero ? e : one) * whole, rest = (z < zero ? one : e) * whole;
  const V bell = s * rest, odd = rest - s, three = Math::splat(3), two = one + one;
  return {z * s, s + z * s * rest, bell * (two + z * odd), bell * (odd * (three + z * odd) - two * z * bell)};
}

// Above 20, torch's softplus and its derivatives are those of the identity.
template <class Math>
SVGDX_HD Jet<typename Math::V> softplus_jet(typename Math::V z) {
  using V = typename Math::V;
  const V zero = V{}, one = Math::splat(1), e = Math::exp(z < zero ? z : -z), whole = one / (one + e);
  const V s = (z < zero ? e : one) * whole, limit = Math::splat(20);
  const V value = (z < zero ? zero : z) + Math::log1p(e);
  const V second = z < limit ? e * whole * whole : zero, rest = (z < zero ? one : e) * whole;
  return {z > limit ? z : value, z > limit ? one : s, second, second * (rest - s)};
}

template <class Math>
SVGDX_HD Jet<typename Math::V> tanh_jet(typename Math::V z) {
  using V = typename Math::V;
  const V zero = V{}, one = Math::splat(1), two = Math::splat(2), below = Math::expm1((z < zero ? z : -z) * two);
  const V whole = one / (two + below), size = -below * whole, t = z < zero ? -size : size;
  const V first = two * two * (one + below) * whole * whole;
  return {t, first, -two * t * first, two * first * (two - Math::splat(3) * first)};
}

// z Phi(z), where Phi is the normal distribution function (torch's approximate="none"), computed from the smaller tail,
// so that no digits are lost.
template <class Math>
SVGDX_HD Jet<typename Math::V> gelu_jet(typename Math::V z) {
  using V = typename Math::V;
  const V zero = V{}, half = Math::splat(0.5), e = Math::exp(-half * z * z);
  const V tail = half * e * erfcx_nonnegative<Math>((z < zero ? -z : z) * Math::splat(0.7071067811865476));
  const V phi = z < zero ? tail : Math::splat(1) - tail, density = Math::splat(0.3989422804014327) * e;
  const V two = Math::splat(2), square = z * z;
  return {z * phi, phi + z * density, density * (two - square), density * z * (square - two - two)};
}

// At 0 the second derivative is that from the right, as in autograd.
template <class Math>
SVGDX_HD Jet<typename Math::V> elu_jet(typename Math::V z) {
  using V = typename Math::V;
  const V zero = V{}, one = Math::splat(1), below = Math::expm1(z > zero ? zero : z);
  const V curve = z < zero ? below + one : zero;
  return {z > zero ? z : below, z > zero ? one : below + one, curve, curve};
}

template <class Math>
SVGDX_HD Jet<typename Math::V> relu_jet(typename Math::V z) {
  using V = typename Math::V;
  const V zero = V{};
  // NaN propagates.
  return {z <= zero ? zero : z, z > zero ? Math::splat(1) : zero, zero, zero};
}

template <Activation kKind, class Math>
SVGDX_HD Jet<typename Math::V> activation_jet(typename Math::V z) {
  if constexpr (kKind == Activation::silu) {
    return silu_jet<Math>(z);
  } else if constexpr (kKind == Activation::gelu) {
    return gelu_jet<Math>(z);
  } else if constexpr (kKind == Activation::tanh) {
    return tanh_jet<Math>(z);
  } else if constexpr (kKind == Activation::softplus) {
    return softplus_jet<Math>(z);
  } else if constexpr (kKind == Activation::elu) {
    return elu_jet<Math>(z);
  } else {
    return relu_jet<Math>(z);
  }
}

template <Activation kKind>
struct ActivationTag {
  static constexpr Activation kind = kKind;
};

// Calls f with the tag of an activation, so that inner loops need not test for it.
template <class F>
SVGDX_HD void with_activation(Activation kind, F f) {
  switch (kind) {
    case Activation::silu:
      return f(ActivationTag<Activation::silu>{});
    case Activation::gelu:
      return f(ActivationTag<Activation::gelu>{});
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
