// Which formats the kernels read and write: 16-bit ones as well.
#pragma once

namespace svgdx::cuda {

constexpr bool kReadsStored = true;

}  // namespace svgdx::cuda
