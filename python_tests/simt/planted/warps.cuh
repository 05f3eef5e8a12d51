// A copy, for tests only, of cooperation within a warp: a transpose through shared memory and a sum by shuffles.
// Included once per bug, like rows.cuh.
namespace svgdx::planted::PLANTED {

// out[i] = x[i of the neighbouring lane] + the sum over the warp.
__global__ void neighbours(const float* __restrict__ x, float* __restrict__ out, int n) {
  SVGDX_SHARED(float, line, 4, 32);
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
#ifdef BUG_EXITED_LANE
  if (i >= n) return;
#endif
  const float own = i < n ? x[i] : 0.0f;
  line[warp][lane] = own;
#if defined(BUG_SHUFFLE_AS_SYNC)
  const float kept = __shfl_xor_sync(0xffffffffu, own, 0);
#else
  const float kept = own;
#endif
#if !defined(BUG_NO_SYNCWARP) && !defined(BUG_SHUFFLE_AS_SYNC)
  __syncwarp();
#endif
  const float next = line[warp][(lane + 1) % 32];  // due: no_syncwarp shuffle_as_sync
  float sum = kept;
#ifdef BUG_ABSENT_LANE
  if (lane < 16)
#endif
    for (int offset = 16; offset > 0; offset /= 2) {
#ifdef BUG_MASK_WITHOUT_CALLER
      const unsigned mask = 0x0000ffffu;
#else
    const unsigned mask = 0xffffffffu;
#endif
      sum += __shfl_xor_sync(mask, sum, offset);  // due: absent_lane mask_without_caller exited_lane
    }
  if (i < n) out[i] = next + sum;
}

}  // namespace svgdx::planted::PLANTED
