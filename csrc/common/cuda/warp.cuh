// Small device helpers: warp sums, powers of two, the bandwidth.
#pragma once

#include "common/beta.h"
#include "common/cuda/simt_macros.cuh"
#include "common/per_batch.h"

namespace svgdx::cuda {

constexpr unsigned kFullWarp = 0xffffffffu;

// Sums over groups of lanes that differ in the bits [from, to) of the lane number; every lane gets the sum.
template <class T>
__device__ inline T lane_sum(T value, int from, int to) {
  for (int offset = from; offset < to; offset *= 2) value += __shfl_xor_sync(kFullWarp, value, offset);
  return value;
}

__device__ inline float power_of_two(float v) { return exp2f(v); }
__device__ inline double power_of_two(double v) { return exp2(v); }

// Flushes results below the smallest normal number to zero, which is negligible in a sum with larger ones; exp2f takes
// three times as many instructions.
__device__ inline float flushed_power_of_two(float v) {
#ifdef SVGDX_SIMT
  return exp2f(v);
#else
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(v));
  return power;
#endif
}

template <class T>
__device__ inline T not_a_number() {
  return static_cast<T>(__builtin_nanf(""));
}

// beta = 1 / sigma^2. Rejecting a bandwidth on the device would need a sync, so sigma <= 0 gives NaN instead.
template <class T>
__device__ inline T beta_of(const PerBatch<T>& bandwidth, int64_t b) {
  const T sigma = bandwidth[b];
  return sigma > T(0) ? beta_of_sigma(sigma) : not_a_number<T>();
}

}  // namespace svgdx::cuda
