// SIMD vectors, as wide as the translation unit's instruction set allows. The CPU kernels are compiled once per
// instruction set (SVGDX_ISA names the namespace) and chosen at run time; no code here is shared between sets.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#ifndef SVGDX_ISA
#define SVGDX_ISA baseline
#endif

#if defined(__AVX512F__)
#define SVGDX_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define SVGDX_VECTOR_BYTES 32
#else
#define SVGDX_VECTOR_BYTES 16
#endif

namespace svgdx::SVGDX_ISA {

template <class T>
struct VecTraits;
template <>
struct VecTraits<float> {
  using Int = int32_t;
};
template <>
struct VecTraits<double> {
  using Int = int64_t;
};

template <class T>
struct VecType {
  typedef T V __attribute__((vector_size(SVGDX_VECTOR_BYTES), may_alias));
  typedef T Unaligned __attribute__((vector_size(SVGDX_VECTOR_BYTES), may_alias, aligned(alignof(T))));
  typedef typename VecTraits<T>::Int I __attribute__((vector_size(SVGDX_VECTOR_BYTES), may_alias));
};
template <class T>
using Vec = typename VecType<T>::V;

template <class T>
constexpr int kLanes = SVGDX_VECTOR_BYTES / int(sizeof(T));

#define SVGDX_INLINE inline __attribute__((always_inline))

template <class T>
SVGDX_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const typename VecType<T>::Unaligned*>(p);
}
template <class T>
SVGDX_INLINE void store(T* p, Vec<T> v) {
  *reinterpret_cast<typename VecType<T>::Unaligned*>(p) = v;
}
// One broadcast: the compiler drops the subtraction of 0, but not an addition, which turns -0 into 0.
template <class T>
SVGDX_INLINE Vec<T> splat(T a) {
  return a - Vec<T>{};
}
template <class T>
SVGDX_INLINE T horizontal_sum(Vec<T> v) {
  T s = 0;
  for (int i = 0; i < kLanes<T>; ++i) s += v[i];
  return s;
}

// Where 2^x is 0 for every smaller x.
template <class T>
constexpr T kLowestExponent = sizeof(T) == 8 ? -1023 : -127;
// The larger number, b if one of them is NaN. GCC does not find the instruction for it in a comparison, and warns of
// the unmasked form with 512 bits.
template <class T>
SVGDX_INLINE Vec<T> larger(Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 8) return (Vec<T>)_mm512_mask_max_pd((__m512d)a, __mmask8(-1), (__m512d)a, (__m512d)b);
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm512_mask_max_ps((__m512)a, __mmask16(-1), (__m512)a, (__m512)b);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 8) return (Vec<T>)_mm256_max_pd((__m256d)a, (__m256d)b);
  if constexpr (sizeof(T) == 4) return (Vec<T>)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return a > b ? a : b;
#endif
}
template <class T>
SVGDX_INLINE Vec<T> bounded_exponent(Vec<T> x) {
  return larger<T>(splat(kLowestExponent<T>), x);
}

// 2^x for x <= 0 (or slightly above), exactly 1 at 0. Where 2^x is below the smallest normal number, 2^-126 or 2^-1022,
// the result is 0 or another number below it. NaN propagates. The relative error is below 2 eps: float uses the
// degree-5 polynomial with p(0) = 1 that minimises the maximal relative error of 2^f on [-1/2, 1/2], double the Taylor
// polynomial of degree 12.
template <class T>
SVGDX_INLINE Vec<T> exp2_nonpositive(Vec<T> x);

// Multiplies 2^f by 2^n by adding n to the exponent bits; n = rounded - magic is in the low bits of rounded.
template <class T, int kMantissaBits>
SVGDX_INLINE Vec<T> scale_by_power(Vec<T> p, Vec<T> rounded) {
  using I = typename VecType<T>::I;
  return (Vec<T>)((I)p + ((I)rounded << kMantissaBits));
}

template <>
SVGDX_INLINE Vec<float> exp2_nonpositive<float>(Vec<float> x) {
  const Vec<float> magic = splat(12582912.0f);      // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const Vec<float> y = bounded_exponent<float>(x);  // at the bound, exponent 0 and p = 1: exactly 0
  const Vec<float> rounded = y + magic;
  const Vec<float> f = y - (rounded - magic);
  Vec<float> p = splat(1.3264727e-3f);
  p = p * f + 9.6715130e-3f;
  p = p * f + 5.5507336e-2f;
  p = p * f + 2.4022242e-1f;
  p = p * f + 6.9314700e-1f;
  p = p * f + 1.0f;
  return scale_by_power<float, 23>(p, rounded);
}

template <>
SVGDX_INLINE Vec<double> exp2_nonpositive<double>(Vec<double> x) {
  const Vec<double> magic = splat(6755399441055744.0);  // 1.5 * 2^52
  const Vec<double> y = bounded_exponent<double>(x);
  const Vec<double> rounded = y + magic;
  const Vec<double> f = y - (rounded - magic);
  Vec<double> p = splat(2.5678435993488205e-11);  // (ln 2)^k / k!
  p = p * f + 4.4455382718708114e-10;
  p = p * f + 7.0549116208011233e-9;
  p = p * f + 1.0178086009239699e-7;
  p = p * f + 1.3215486790144309e-6;
  p = p * f + 1.5252733804059840e-5;
  p = p * f + 1.5403530393381609e-4;
  p = p * f + 1.3333558146428443e-3;
  p = p * f + 9.6181291076284772e-3;
  p = p * f + 5.5504108664821580e-2;
  p = p * f + 2.4022650695910071e-1;
  p = p * f + 6.9314718055994531e-1;
  p = p * f + 1.0;
  return scale_by_power<double, 52>(p, rounded);
}

}  // namespace svgdx::SVGDX_ISA
