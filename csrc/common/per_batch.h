#pragma once

#include <cstdint>

namespace svgdx {

// One number per batch row, or one for all rows (stride 0).
template <class T>
struct PerBatch {
  const T* data = nullptr;
  int64_t stride = 0;
};

}  // namespace svgdx
