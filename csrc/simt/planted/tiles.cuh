// Small kernels with the shape of the project's own: tile loads, barriers, reductions.
#pragma once

#include "common/cuda/simt_macros.cuh"

namespace svgdx::planted {

// out[i] = sum_j x[i] * x[j], tiles of the columns in shared memory.
template <int kBlock>
__global__ void tile_sum(const float* __restrict__ x, float* __restrict__ out, int n) {
  SVGDX_SHARED(float, tile, kBlock);
  const int i = int(blockIdx.x) * kBlock + int(threadIdx.x);
  const float xi = i < n ? x[i] : 0.0f;
  float sum = 0.0f;
  for (int start = 0; start < n; start += kBlock) {
    const int j = start + int(threadIdx.x);
    tile[threadIdx.x] = j < n ? x[j] : 0.0f;
    __syncthreads();
    for (int k = 0; k < kBlock; ++k) sum += xi * tile[k];
    __syncthreads();
  }
  if (i < n) out[i] = sum;
}

}  // namespace svgdx::planted
