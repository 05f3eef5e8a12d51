// Processes rows of numbers in SIMD vectors. A row's last, partial vector is padded with zeros and stored in part.
#pragma once

#include "common/vec.h"

namespace svgdx::SVGDX_ISA {

// Accesses a vector of a row: a whole one, or the n < kLanes remaining entries.
template <class C>
struct Whole {
  SVGDX_INLINE Vec<C> load(const C* p) const { return SVGDX_ISA::load(p); }
  SVGDX_INLINE void store(C* p, Vec<C> v) const { SVGDX_ISA::store(p, v); }
};
template <class C>
struct Part {
  int64_t n;
  SVGDX_INLINE Vec<C> load(const C* p) const {
    Vec<C> v{};
    memcpy(&v, p, n * sizeof(C));
    return v;
  }
  SVGDX_INLINE void store(C* p, Vec<C> v) const { memcpy(p, &v, n * sizeof(C)); }
};

// Calls f(i, access) for each vector of a row.
template <class C, class F>
SVGDX_INLINE void for_vectors(int64_t width, F f) {
  int64_t i = 0;
  for (; i + kLanes<C> <= width; i += kLanes<C>) f(i, Whole<C>{});
  if (i < width) f(i, Part<C>{width - i});
}

}  // namespace svgdx::SVGDX_ISA
