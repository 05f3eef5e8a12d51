// The median distance: the functions that each backend provides, for float and double.
#pragma once

#include <cstdint>

namespace svgdx::SVGDX_BACKEND {

// Bytes of device memory that median_distance needs.
int64_t median_distance_scratch(int64_t batch, int64_t particles, int64_t dim);

// Lower median of all M^2 distances of x (batch, particles, dim), including the M zeros; NaN if any is NaN.
template <class T>
void median_distance(int64_t batch, int64_t particles, int64_t dim, const T* x, T* out, void* scratch, void* stream);

}  // namespace svgdx::SVGDX_BACKEND
