#pragma once

#include <algorithm>
#include <cstdint>

#include "common/limits.h"

namespace svgdx::cuda {

// Rows per block; most calls need one block.
inline int64_t mlp_rows(int64_t rows, int64_t width) {
  return std::min<int64_t>(rows, std::max<int64_t>(1, kMlpNumbers / width));
}

// Points per block of the gradient of mlp_laplacian, each with `per_point` rows of every layer.
inline int64_t laplacian_points(int64_t points, int64_t per_point, int64_t width) {
  return mlp_rows(points, per_point * width);
}

}  // namespace svgdx::cuda
