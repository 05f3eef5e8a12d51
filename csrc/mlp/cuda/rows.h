#pragma once

#include <algorithm>
#include <cstdint>

#include "common/limits.h"

namespace svgdx::cuda {

// Rows per block; most calls need one block.
inline int64_t mlp_rows(int64_t rows, int64_t width) {
  return std::min<int64_t>(rows, std::max<int64_t>(1, kMlpNumbers / width));
}

}  // namespace svgdx::cuda
