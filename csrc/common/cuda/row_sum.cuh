// Sums one number per row in a fixed order: a block per batch entry, a strided share per thread, then a tree.
#pragma once

#include "common/cuda/launch.cuh"
#include "common/cuda/warp.cuh"
#include "common/row_sum.h"

namespace svgdx::cuda {

constexpr int kSumThreads = 256;

template <class T, class In>
__global__ void __launch_bounds__(kSumThreads)
    row_sum_kernel(RowsOf<In> in, RowsOf<In> more, T scale, PerBatch<T> divisor, T* out, int64_t first_block) {
  SVGDX_SHARED(In, warps, kSumThreads / 32);
  const int64_t b = first_block + blockIdx.x;
  In sum = 0;
  for (int64_t i = threadIdx.x; i < in.count; i += kSumThreads) sum += in.data[b * in.count + i];
  for (int64_t i = threadIdx.x; i < more.count; i += kSumThreads) sum += more.data[b * more.count + i];
  sum = lane_sum(sum, 1, 32);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  sum = lane_sum(threadIdx.x < kSumThreads / 32 ? warps[threadIdx.x] : In(0), 1, 32);
  if (threadIdx.x != 0) return;
  out[b] = T(divisor ? scale * sum / divisor[b] : scale * sum);
}

template <class T, class In>
void row_sum(int64_t batch, RowsOf<In> in, RowsOf<In> more, T scale, PerBatch<T> divisor, T* out, void* stream) {
  launch_blocks("row_sum", batch, [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((row_sum_kernel<T, In>), grid, kSumThreads, 0, stream, in, more, scale, divisor, out, first);
  });
}

}  // namespace svgdx::cuda
