// Which formats the kernels read and write: no 16-bit ones; the host layer converts them.
#pragma once

namespace svgdx::cpu {

constexpr bool kReadsStored = false;

}  // namespace svgdx::cpu
