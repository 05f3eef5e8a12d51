// Which arrays the forward kernels read in 16-bit formats: none; the host layer converts them.
#pragma once

#include <cstdint>

namespace svgdx::cpu {

constexpr int64_t kStoredDims = 0;

}  // namespace svgdx::cpu
