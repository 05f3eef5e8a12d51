#pragma once

#include <cstdint>

#include "common/hd.h"

namespace svgdx {

// One number per batch row, or one for all rows: in memory with stride 0, or by value, so that a kernel gets it among
// its arguments. Without either there is none.
template <class T>
struct PerBatch {
  const T* data = nullptr;
  int64_t stride = 0;
  T value = 0;
  bool by_value = false;

  SVGDX_HD explicit operator bool() const { return data != nullptr || by_value; }
  SVGDX_HD T operator[](int64_t b) const { return data != nullptr ? data[b * stride] : value; }
  // Those of the batch rows from `first` on.
  PerBatch from(int64_t first) const { return {data ? data + first * stride : nullptr, stride, value, by_value}; }
};

}  // namespace svgdx
