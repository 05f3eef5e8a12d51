#pragma once

#include <algorithm>
#include <cstdint>

namespace svgdx::cpu {

// Rows per block: few enough that its layers stay in a core's cache and that several threads get blocks.
inline int64_t mlp_rows(int64_t rows, int64_t width) {
  const int64_t fits = std::max<int64_t>(16, std::min<int64_t>(128, 16384 / width));
  return std::min<int64_t>(fits, rows >= 128 ? 64 : rows >= 64 ? 32 : 16);
}

// Points per block of the gradient of mlp_laplacian, each with `per_point` rows of every layer: enough that a sum of a
// layer's gradients is worth its memory accesses, and at least four blocks.
inline int64_t laplacian_points(int64_t points, int64_t per_point, int64_t) {
  return std::max<int64_t>(1, std::min<int64_t>(256 / per_point, (points + 3) / 4));
}

}  // namespace svgdx::cpu
