// Converts between row-major arrays and vectors whose lanes are consecutive particles.
#pragma once

#include <cstdint>

#include "common/vec.h"

namespace svgdx::SVGDX_ISA {

// out[d] receives rows[i][d] for the particles i = first, first + 1, ...; lanes past the end repeat the last particle,
// so that they compute finite numbers, which are never read.
template <class T>
SVGDX_INLINE void load_lanes(const T* rows, int64_t count, int64_t width, int64_t first, Vec<T>* out) {
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    const T* row = rows + (first + lane < count ? first + lane : count - 1) * width;
    for (int64_t d = 0; d < width; ++d) reinterpret_cast<T*>(out + d)[lane] = row[d];
  }
}

// The inverse of load_lanes; lanes past the end are dropped.
template <class T>
SVGDX_INLINE void store_lanes(const Vec<T>* in, int64_t count, int64_t width, int64_t first, T* rows) {
  for (int lane = 0; lane < kLanes<T> && first + lane < count; ++lane) {
    T* row = rows + (first + lane) * width;
    for (int64_t d = 0; d < width; ++d) row[d] = reinterpret_cast<const T*>(in + d)[lane];
  }
}

}  // namespace svgdx::SVGDX_ISA
