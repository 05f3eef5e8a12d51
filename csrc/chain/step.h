// The mathematics of chain/args.h for one number, shared by both backends.
#pragma once

#include <cmath>

#include "common/hd.h"

namespace svgdx::chain {

// The larger of two numbers; NaN if one is NaN.
template <class T>
SVGDX_HD T larger(T a, T b) {
  return a > b || a != a ? a : b;
}

// eps_UB = 1 / |J|_F of the largest |J|_F^2. A probe's estimate can be negative, in which case the norm is too small to
// bound anything.
template <class T>
SVGDX_HD T limit_of(T sqnorm) {
  return T(1) / std::sqrt(sqnorm < T(1e-12) ? T(1e-12) : sqnorm);
}

template <class T>
SVGDX_HD T held_under(T step, T limit, T slope) {
  return step > limit ? limit + slope * (step - limit) : step;
}

template <class T>
SVGDX_HD T slope_of(T step, T limit, T slope) {
  return step > limit ? slope : T(1);
}

template <class T>
SVGDX_HD T sigmoid(T raw) {
  return T(1) / (T(1) + std::exp(-raw));
}

// A number whose logarithm is low + width times a sigmoid.
template <class T>
SVGDX_HD T learnt(T raw, T low, T width) {
  return std::exp(low + width * sigmoid(raw));
}

template <class T>
SVGDX_HD T learnt_slope(T raw, T low, T width) {
  const T s = sigmoid(raw);
  return learnt(raw, low, width) * width * s * (T(1) - s);
}

}  // namespace svgdx::chain
