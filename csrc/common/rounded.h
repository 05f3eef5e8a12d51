// Arithmetic that rounds after each operation, so that every backend and SIMD level computes the same bits. On the host
// this requires -ffp-contract=off: a fused multiply-add would round once instead of twice.
#pragma once

#include <cmath>

#include "common/hd.h"

namespace svgdx {

#if defined(__CUDA_ARCH__)
SVGDX_HD float rounded_mul(float a, float b) { return __fmul_rn(a, b); }
SVGDX_HD float rounded_add(float a, float b) { return __fadd_rn(a, b); }
SVGDX_HD float rounded_div(float a, float b) { return __fdiv_rn(a, b); }
SVGDX_HD float rounded_sqrt(float a) { return __fsqrt_rn(a); }
SVGDX_HD double rounded_mul(double a, double b) { return __dmul_rn(a, b); }
SVGDX_HD double rounded_add(double a, double b) { return __dadd_rn(a, b); }
SVGDX_HD double rounded_div(double a, double b) { return __ddiv_rn(a, b); }
SVGDX_HD double rounded_sqrt(double a) { return __dsqrt_rn(a); }
#else
template <class T>
SVGDX_HD T rounded_mul(T a, T b) {
  return a * b;
}
template <class T>
SVGDX_HD T rounded_add(T a, T b) {
  return a + b;
}
template <class T>
SVGDX_HD T rounded_div(T a, T b) {
  return a / b;
}
template <class T>
SVGDX_HD T rounded_sqrt(T a) {
  return std::sqrt(a);
}
#endif

// A number whose operators are those above.
template <class T>
struct Rounded {
  T value;

  SVGDX_HD Rounded(T v) : value(v) {}
  friend SVGDX_HD Rounded operator*(Rounded a, Rounded b) { return rounded_mul(a.value, b.value); }
  friend SVGDX_HD Rounded operator+(Rounded a, Rounded b) { return rounded_add(a.value, b.value); }
  friend SVGDX_HD Rounded operator-(Rounded a, Rounded b) { return rounded_add(a.value, -b.value); }
  friend SVGDX_HD Rounded operator/(Rounded a, Rounded b) { return rounded_div(a.value, b.value); }
};

// p[0] x^(n-1) + ... + p[n-1].
template <class T, class... Coefficients>
SVGDX_HD Rounded<T> polynomial(Rounded<T> x, T first, Coefficients... rest) {
  Rounded<T> sum = first;
  ((sum = sum * x + Rounded<T>(rest)), ...);
  return sum;
}

}  // namespace svgdx
