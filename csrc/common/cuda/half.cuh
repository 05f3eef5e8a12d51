// The 16-bit formats on a GPU: hardware conversions with the same values as common/half.h.
#pragma once

#include "common/cuda/warp.cuh"
#include "common/half.h"

namespace svgdx::cuda {

template <class S>
__device__ inline Compute<S> to_compute(S value) {
#ifndef SVGDX_SIMT
  if constexpr (std::is_same_v<S, Fp16>) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
  }
#endif
  return widen(value);
}

template <class S>
__device__ inline S to_storage(Compute<S> value) {
#ifndef SVGDX_SIMT
  if constexpr (std::is_same_v<S, Fp16>) {
    S half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half.bits) : "f"(value));
    return half;
  }
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  if constexpr (std::is_same_v<S, Bf16>) {
    S half;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(half.bits) : "f"(value));
    return half;
  }
#endif
#endif
  return narrow<S>(value);
}

__device__ inline float exp_of(float v) { return flushed_power_of_two(v * 1.44269504f); }
__device__ inline double exp_of(double v) { return exp(v); }

__device__ inline float log_of(float v) { return logf(v); }
__device__ inline double log_of(double v) { return log(v); }

}  // namespace svgdx::cuda
