// Formats in which kernels of float may store arrays.
#pragma once

namespace svgdx {

enum class Format { kFloat, kBf16, kFp16 };

}  // namespace svgdx
