// Sums of one number per row, in a fixed order.
#pragma once

#include <cstdint>

#include "common/per_batch.h"

namespace svgdx::SVGDX_BACKEND {

// out[b] = scale * sum_n in[b, n], divided by divisor[b] if given.
template <class T>
void row_sum(int64_t batch, int64_t n, const T* in, T scale, PerBatch<T> divisor, T* out, void* stream);

}  // namespace svgdx::SVGDX_BACKEND
