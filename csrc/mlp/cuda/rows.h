#pragma once

#include <algorithm>
#include <cstdint>

namespace svgdx::cuda {

// Rows per block, whose layers take a few times 2^23 numbers of memory each; most calls need one block.
inline int64_t mlp_rows(int64_t rows, int64_t width) {
  return std::min<int64_t>(rows, std::max<int64_t>(1, (int64_t(1) << 23) / width));
}

}  // namespace svgdx::cuda
