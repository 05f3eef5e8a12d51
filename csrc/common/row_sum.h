// Sums of one number per row, in a fixed order.
#pragma once

#include <cstdint>

#include "common/per_batch.h"

// A row's share in a sum over rows. On the CPU, kernels that expand |x_i - x_j|^2 have large shares that cancel.
namespace svgdx::cpu {
template <class T>
using RowShare = double;
}
namespace svgdx::cuda {
template <class T>
using RowShare = T;
}

namespace svgdx::SVGDX_BACKEND {

// Numbers (batch, count); none if count is 0.
template <class In>
struct RowsOf {
  const In* data = nullptr;
  int64_t count = 0;
};

// out[b] = scale * (sum_n in[b, n] + sum_n more[b, n]), divided by divisor[b] if given; In is T or double.
template <class T, class In>
void row_sum(int64_t batch, RowsOf<In> in, RowsOf<In> more, T scale, PerBatch<T> divisor, T* out, void* stream);

}  // namespace svgdx::SVGDX_BACKEND
