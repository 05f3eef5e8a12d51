// Copies, for tests only, of cooperation between blocks: the last block sums, histograms, and one kernel reading what
// another wrote. Included once per bug, like rows.cuh.
namespace svgdx::planted::PLANTED {

// total = sum of x: each block writes its part, and the block that takes the last ticket adds the parts.
__global__ void last_block_sum(const float* __restrict__ x, float* parts, unsigned* ticket, float* total, int n) {
  SVGDX_SHARED(bool, last, 1);
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  float sum = i < n ? x[i] : 0.0f;
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  const int warps = int(blockDim.x) / 32;
  if (threadIdx.x % 32 == 0) {
    parts[int(blockIdx.x) * warps + int(threadIdx.x) / 32] = sum;  // due: no_fence
#ifndef BUG_NO_FENCE
    __threadfence();
#endif
  }
  __syncthreads();
  if (threadIdx.x == 0) last[0] = atomicAdd(ticket, 1u) == gridDim.x - 1;
  __syncthreads();
  if (!last[0] || threadIdx.x != 0) return;
  float all = 0.0f;
  for (int p = 0; p < int(gridDim.x) * warps; ++p) all += parts[p];  // due: no_fence
  *total = all;
}

// counts[v] = how often v occurs in keys.
__global__ void histogram(const int* __restrict__ keys, int* counts, int n) {
  constexpr int kBins = 16;
  SVGDX_SHARED(int, bins, kBins);
  if (threadIdx.x < kBins) bins[threadIdx.x] = 0;
  __syncthreads();
  for (int i = int(blockIdx.x * blockDim.x + threadIdx.x); i < n; i += int(gridDim.x * blockDim.x)) {
#ifdef BUG_PLAIN_SHARED_HISTOGRAM
    bins[keys[i]] += 1;  // due: plain_shared_histogram
#else
    atomicAdd(&bins[keys[i]], 1);
#endif
  }
  __syncthreads();
  if (threadIdx.x >= kBins) return;
#ifdef BUG_PLAIN_GLOBAL_HISTOGRAM
  counts[threadIdx.x] += bins[threadIdx.x];  // due: plain_global_histogram
#else
  atomicAdd(&counts[threadIdx.x], bins[threadIdx.x]);
#endif
}

__global__ void square(const float* __restrict__ x, float* __restrict__ y, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
#ifdef BUG_UNWRITTEN_OUTPUT
  if (i < n - 1) y[i] = x[i] * x[i];
#else
  if (i < n) y[i] = x[i] * x[i];
#endif
}

__global__ void add_one(const float* __restrict__ y, float* __restrict__ z, int n) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) z[i] = y[i] + 1.0f;  // due: unwritten_output
}

// A host launch function: z = x^2 + 1, through scratch memory.
inline void square_add_one(const float* x, void* scratch, float* z, int n) {
  const unsigned grid = unsigned(n + 63) / 64;
  float* y = static_cast<float*>(scratch);
  SVGDX_LAUNCH(square, grid, 64, 0, nullptr, x, y, n);
  SVGDX_LAUNCH_CHECK("square");
  SVGDX_LAUNCH(add_one, grid, 64, 0, nullptr, y, z, n);
  SVGDX_LAUNCH_CHECK("add_one");
}

}  // namespace svgdx::planted::PLANTED
