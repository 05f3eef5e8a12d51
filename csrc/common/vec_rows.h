// Processes rows of numbers in SIMD vectors. A row's last, partial vector is padded with zeros and stored in part.
#pragma once

#include "common/vec.h"

namespace svgdx::SVGDX_ISA {

#if defined(__AVX2__) && !defined(__AVX512F__)
// All bits of lanes [0, n).
template <class C>
SVGDX_INLINE __m256i first_lanes(int64_t n) {
  using Int = typename VecTraits<C>::Int;
  typename VecType<C>::I lanes;
  for (int lane = 0; lane < kLanes<C>; ++lane) lanes[lane] = lane;
  return (__m256i)(lanes < typename VecType<C>::I{} + Int(n));
}
#endif

// Loads lanes [0, n) from p, 0 < n < kLanes; the others are zero. Masked loads, because a copy to memory and a load of
// the whole vector would wait for one another.
template <class C>
SVGDX_INLINE Vec<C> load_some(const C* p, int64_t n) {
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 8) return (Vec<C>)_mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), p);
  if constexpr (sizeof(C) == 4) return (Vec<C>)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
#elif defined(__AVX2__)
  if constexpr (sizeof(C) == 8) return (Vec<C>)_mm256_maskload_pd(p, first_lanes<C>(n));
  if constexpr (sizeof(C) == 4) return (Vec<C>)_mm256_maskload_ps(p, first_lanes<C>(n));
#else
  Vec<C> v{};
  memcpy(&v, p, n * sizeof(C));
  return v;
#endif
}

// Stores lanes [0, n) to p, 0 < n < kLanes.
template <class C>
SVGDX_INLINE void store_some(C* p, int64_t n, Vec<C> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(C) == 8) return _mm512_mask_storeu_pd(p, __mmask8((1u << n) - 1), (__m512d)v);
  if constexpr (sizeof(C) == 4) return _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)v);
#elif defined(__AVX2__)
  if constexpr (sizeof(C) == 8) return _mm256_maskstore_pd(p, first_lanes<C>(n), (__m256d)v);
  if constexpr (sizeof(C) == 4) return _mm256_maskstore_ps(p, first_lanes<C>(n), (__m256)v);
#else
  memcpy(p, &v, n * sizeof(C));
#endif
}

// Accesses a vector of a row: a whole one, or the n < kLanes remaining entries.
template <class C>
struct Whole {
  SVGDX_INLINE Vec<C> load(const C* p) const { return SVGDX_ISA::load(p); }
  SVGDX_INLINE void store(C* p, Vec<C> v) const { SVGDX_ISA::store(p, v); }
};
template <class C>
struct Part {
  int64_t n;
  SVGDX_INLINE Vec<C> load(const C* p) const { return load_some(p, n); }
  SVGDX_INLINE void store(C* p, Vec<C> v) const { store_some(p, n, v); }
};

// Calls f(i, access) for each vector of a row.
template <class C, class F>
SVGDX_INLINE void for_vectors(int64_t width, F f) {
  int64_t i = 0;
  for (; i + kLanes<C> <= width; i += kLanes<C>) f(i, Whole<C>{});
  if (i < width) f(i, Part<C>{width - i});
}

}  // namespace svgdx::SVGDX_ISA
