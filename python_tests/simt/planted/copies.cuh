// A copy, for tests only, of the double-buffered tiles of csrc/field/cuda/expanded. Included once per bug, like
// rows.cuh.
#include "common/cuda/async_copy.cuh"

namespace svgdx::planted::PLANTED {

// sums[i] = sum over the chunks of 64 numbers of the number after number i: each thread copies one number of a chunk
// while the chunk before it is added.
__global__ void next_sums(const float* __restrict__ x, float* __restrict__ sums, int chunks) {
  SVGDX_SHARED(float, tile, 2, 64);
  const int i = int(threadIdx.x);
  svgdx::cuda::AsyncCopies copies;
  copies.copy<4>(&tile[0][i], x + i, true);
  copies.commit();
  float sum = 0.0f;
  for (int chunk = 0; chunk < chunks; ++chunk) {
    if (chunk + 1 < chunks) copies.copy<4>(&tile[(chunk + 1) % 2][i], x + (chunk + 1) * 64 + i, true);
    copies.commit();
#ifndef BUG_NO_WAIT
    copies.wait<1>();
#endif
#ifndef BUG_NO_BARRIER_AFTER_WAIT
    __syncthreads();
#endif
    sum += tile[chunk % 2][(i + 1) % 64];  // due: no_wait no_barrier_after_wait no_barrier_before_copy
#ifndef BUG_NO_BARRIER_BEFORE_COPY
    __syncthreads();
#endif
  }
  sums[i] = sum;
}

}  // namespace svgdx::planted::PLANTED
