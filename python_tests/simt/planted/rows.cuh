// A copy, for tests only, of the structure of the field kernels: rows against tiles of columns, then a sum over the
// block. Included once per bug: PLANTED names the namespace, BUG_* enables the bug. Lines where a report is due are
// marked.
namespace svgdx::planted::PLANTED {

// out[i] = sum_j x_i . x_j, block_sum[b] = the block's sum of them; x is (n, dim), dim <= 4.
template <int kBlock>
__global__ void row_sums(const float* __restrict__ x, float* __restrict__ out, float* __restrict__ block_sum, int n,
                         int dim) {
  constexpr int kWarps = kBlock / 32;
  svgdx::SharedCarver carver;
#ifdef BUG_UNALIGNED_SHARED
  SVGDX_SHARED(float, packs, 4 * kBlock);
  float4* tile = reinterpret_cast<float4*>(packs);
#else
  SVGDX_CARVE(carver, float4, tile, kBlock);
#endif
  SVGDX_CARVE(carver, float, partial, kWarps);
  const int t = int(threadIdx.x);
  const int i = int(blockIdx.x) * kBlock + t;
#ifdef BUG_EARLY_RETURN
  if (i >= n) return;
#endif
  float4 row = make_float4(0, 0, 0, 0);
  if (i < n) {
#ifdef BUG_MISALIGNED
    row = *reinterpret_cast<const float4*>(x + i * dim);  // due: misaligned
#else
    for (int d = 0; d < dim; ++d) (&row.x)[d] = x[i * dim + d];
#endif
  }
#ifndef BUG_UNCLEARED_PADDING
  for (int d = dim; d < 4; ++d) reinterpret_cast<float*>(tile + t)[d] = 0.0f;
#endif
  float sum = 0.0f;
  for (int start = 0; start < n; start += kBlock) {
    const int count = min(kBlock, n - start);
    if (t < count) {
      for (int d = 0; d < dim; ++d) {
        reinterpret_cast<float*>(tile + t)[d] = x[(start + t) * dim + d];  // due: no_barrier_before_reload
      }
    }
#ifdef BUG_HALF_BLOCK
    if (t < kBlock / 2)
#endif
#ifndef BUG_NO_BARRIER_AFTER_LOAD
      __syncthreads();  // due: half_block early_return
#endif
#ifdef BUG_SHARED_OFF_BY_ONE
    for (int k = 0; k <= count; ++k) {
#else
    for (int k = 0; k < count; ++k) {
#endif
      const float4 column = tile[k];  // due: no_barrier_after_load shared_off_by_one uncleared_padding unaligned_shared
      sum += row.x * column.x + row.y * column.y + row.z * column.z + row.w * column.w;
    }
#ifndef BUG_NO_BARRIER_BEFORE_RELOAD
    __syncthreads();
#endif
  }
#ifndef BUG_WRITE_PAST_BUFFER
  if (i < n)
#endif
    out[i] = sum;  // due: write_past_buffer
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_down_sync(0xffffffffu, sum, offset);
  if (t % 32 == 0) partial[t / 32] = sum;
#ifndef BUG_NO_BARRIER_IN_REDUCTION
  __syncthreads();
#endif
  if (t != 0) return;
  float total = 0.0f;
#ifdef BUG_CARVED_OFF_BY_ONE
  for (int w = 0; w <= kWarps; ++w) {
#else
  for (int w = 0; w < kWarps; ++w) {
#endif
    total += partial[w];  // due: no_barrier_in_reduction carved_off_by_one
  }
  block_sum[blockIdx.x] = total;
}

}  // namespace svgdx::planted::PLANTED
