// Sums one number per row in a fixed order: a block per batch entry, a strided share per thread, then a tree.
#pragma once

#include "common/cuda/launch.cuh"
#include "common/cuda/warp.cuh"
#include "common/row_sum.h"

namespace svgdx::cuda {

constexpr int kSumThreads = 256;

template <class T>
__global__ void __launch_bounds__(kSumThreads)
    row_sum_kernel(int64_t n, const T* in, T scale, PerBatch<T> divisor, T* out, int64_t first_block) {
  SVGDX_SHARED(T, warps, kSumThreads / 32);
  const int64_t b = first_block + blockIdx.x;
  T sum = 0;
  for (int64_t i = threadIdx.x; i < n; i += kSumThreads) sum += in[b * n + i];
  sum = lane_sum(sum, 1, 32);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  sum = lane_sum(threadIdx.x < kSumThreads / 32 ? warps[threadIdx.x] : T(0), 1, 32);
  if (threadIdx.x != 0) return;
  out[b] = divisor.data == nullptr ? scale * sum : scale * sum / at(divisor, b);
}

template <class T>
void row_sum(int64_t batch, int64_t n, const T* in, T scale, PerBatch<T> divisor, T* out, void* stream) {
  launch_blocks("row_sum", batch, [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((row_sum_kernel<T>), grid, kSumThreads, 0, stream, n, in, scale, divisor, out, first);
  });
}

}  // namespace svgdx::cuda
