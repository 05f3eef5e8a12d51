// Assigns rows of numbers to threads: depending on its length, a row is handled by a group of up to 32 lanes or by the
// whole block. All groups of a launch have the same size, so the order of summation depends on the row length only.
#pragma once

#include "common/cuda/launch.cuh"
#include "common/cuda/tile.cuh"
#include "common/cuda/warp.cuh"

namespace svgdx::cuda {

constexpr int kRowThreads = 128;
constexpr int kRowWarps = kRowThreads / 32;

// Lanes per row and rows per block.
struct RowPlan {
  int lane_bits;
  SVGDX_HD int lanes() const { return 1 << lane_bits; }
  SVGDX_HD int rows() const { return kRowThreads >> lane_bits; }
};

template <class C>
struct Larger {
  __device__ C operator()(C a, C b) const { return max(a, b); }
};
template <class C>
struct Sum {
  __device__ C operator()(C a, C b) const { return a + b; }
};

// The calling thread's row and lane.
struct RowGroup {
  int lanes, lane, row;
  __device__ explicit RowGroup(RowPlan plan)
      : lanes(plan.lanes()), lane(int(threadIdx.x) & (plan.lanes() - 1)), row(int(threadIdx.x) >> plan.lane_bits) {}

  // Combines one value from each lane; every thread of the block must call it. `partial` holds kRowWarps values.
  template <class C, class F>
  __device__ C combine(C value, F f, C* partial) const {
    for (int offset = 1; offset < min(lanes, 32); offset *= 2) {
      value = f(value, __shfl_xor_sync(kFullWarp, value, offset));
    }
    if (lanes <= 32) return value;
    __syncthreads();
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    return f(f(partial[0], partial[1]), f(partial[2], partial[3]));
  }
};

}  // namespace svgdx::cuda
