// Which formats the kernels read and write: no 16-bit ones, which the host layer converts, and no TF32.
#pragma once

namespace svgdx::cpu {

constexpr bool kReadsStored = false;

inline bool permits_tf32() { return false; }

}  // namespace svgdx::cpu
