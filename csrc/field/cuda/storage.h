// Which formats the kernels read and write: 16-bit ones as well. TF32 as torch permits it.
#pragma once

#include "common/cuda/precision.h"

namespace svgdx::cuda {

constexpr bool kReadsStored = true;

}  // namespace svgdx::cuda
