// Kernels that each probe one feature of the harness, for its own tests.
#pragma once

#include "common/cuda/mma.cuh"

namespace svgdx::planted {

// out[i] = block and thread index as the kernel sees them.
__global__ void indices(int* out) {
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  out[block * (blockDim.x * blockDim.y * blockDim.z) + thread] = int(block * 1000 + thread);
}

// c (16, 8) = a (16, 8) times b (8, 8), to the accuracy of float.
__global__ void product(const float* a, const float* b, float* c) {
  const int g = int(threadIdx.x) / 4, t = int(threadIdx.x) % 4;
  svgdx::cuda::Split<4, 2> left;
  svgdx::cuda::Split<2, 2> right;
  for (int e = 0; e < 4; ++e) left.set(e, a[(g + e % 2 * 8) * 8 + t + e / 2 * 4]);
  for (int e = 0; e < 2; ++e) right.set(e, b[(t + 4 * e) * 8 + g]);
  svgdx::cuda::ProductSum<2> sum;
  sum.add(left, right);
  for (int e = 0; e < 4; ++e) c[(g + e / 2 * 8) * 8 + 2 * t + e % 2] = sum.total(e);
}

// Every warp operation; `out` is (12, 32).
__global__ void warp_operations(const int* in, int* out) {
  const unsigned all = 0xffffffffu;
  const int lane = int(threadIdx.x), v = in[lane];
  out[0 * 32 + lane] = __shfl_sync(all, v, 5);
  out[1 * 32 + lane] = __shfl_sync(all, v, 3, 8);
  out[2 * 32 + lane] = __shfl_up_sync(all, v, 2);
  out[3 * 32 + lane] = __shfl_down_sync(all, v, 3, 16);
  out[4 * 32 + lane] = __shfl_xor_sync(all, v, 9);
  out[5 * 32 + lane] = int(__ballot_sync(all, v % 2));
  out[6 * 32 + lane] = __any_sync(all, v == 7) * 2 + __all_sync(all, v >= 0);
  out[7 * 32 + lane] = __reduce_add_sync(all, v);
  out[8 * 32 + lane] = __reduce_min_sync(all, v) * 100 + __reduce_max_sync(all, v);
  out[9 * 32 + lane] = int(__match_any_sync(all, v % 3));
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  out[10 * 32 + lane] = __reduce_add_sync(half, v);
  const double wide = __shfl_sync(all, double(v) + 0.25, 31 - lane);
  out[11 * 32 + lane] = int(wide * 4.0);
}

__global__ void barrier_votes(const int* in, int* out) {
  const int p = in[threadIdx.x];
  const int count = __syncthreads_count(p), all = __syncthreads_and(p), any = __syncthreads_or(p);
  out[threadIdx.x] = count * 100 + (all != 0) * 10 + (any != 0);
}

// Shared-memory reads of `width` words per lane, lanes `stride` words apart.
template <class T>
__global__ void strided(const T* in, T* out, int stride) {
  SVGDX_DYNAMIC_SHARED(T, buffer);
  const int lane = int(threadIdx.x);
  for (int i = lane; i < 32 * stride; i += 32) buffer[i] = in[i % 32];
  __syncwarp();
  out[lane] = buffer[lane * stride];
}

// Global reads, lanes `stride` elements apart.
__global__ void strided_global(const float* in, float* out, int stride) { out[threadIdx.x] = in[threadIdx.x * stride]; }

// Waits for a flag that is never set.
__global__ void wait_forever(const volatile int* flag) {
  while (*flag == 0) __nanosleep(10);
}

// Block 1 waits for block 0, so the launch ends only if blocks run concurrently.
__global__ void hand_over(volatile int* flag, float* data, float* out) {
  if (blockIdx.x == 0) {
    *data = 3.0f;
    __threadfence();
    *flag = 1;
  } else {
    while (*flag == 0) __nanosleep(10);
    *out = *data;
  }
}

// Warp operations whose lanes wait for each other in a cycle.
__global__ void crossed(int* out) {
  if (threadIdx.x < 16) {
    out[threadIdx.x] = __shfl_sync(0xffffffffu, 1, 0);
  } else {
    __syncthreads();
    out[threadIdx.x] = 2;
  }
}

__global__ void host_pointer(float* out) {
  const char* where = *reinterpret_cast<const char**>(out);
  *out = float(*where);
}

__global__ void skip_last(float* out, int n) {
  if (int(threadIdx.x) < n - 1) out[threadIdx.x] = 1.0f;
}

// Without preemption every thread reads the counter and adds one before another can.
__global__ void lost_update(volatile int* counter) {
  const int old = *counter;
  *counter = old + 1;
}

}  // namespace svgdx::planted
