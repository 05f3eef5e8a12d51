// The kernels of chain/args.h.
#pragma once

#include "chain/args.h"
#include "chain/step.h"
#include "common/cuda/row_group.cuh"
#include "common/cuda/warp.cuh"

namespace svgdx::cuda {

template <class T>
struct LargerOrNaN {
  __device__ T operator()(T a, T b) const { return chain::larger(a, b); }
};

// A group of lanes per problem.
template <class T>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    chain_bound_kernel(BoundArgs<T> args, RowPlan plan, int64_t first_block) {
  SVGDX_SHARED(T, partial, kRowWarps);
  const RowGroup group(plan);
  const int64_t b = (first_block + blockIdx.x) * plan.rows() + group.row;
  const bool exists = b < args.batch;
  // Below every limit.
  T most = T(0);
  SVGDX_UNROLL_BY(1)
  for (int64_t i = group.lane; exists && i < args.particles; i += group.lanes) {
    most = chain::larger(args.sqnorm[b * args.particles + i], most);
  }
  most = group.combine(most, LargerOrNaN<T>(), partial);
  if (!exists || group.lane != 0) return;
  const T limit = chain::limit_of(most);
  args.limit[b] = limit;
  args.bounded[b] = chain::held_under(args.step[b], limit, args.slope);
}

template <class T>
void chain_bound(const BoundArgs<T>& args, void* stream) {
  int bits = 0;
  while (bits < 7 && (1 << bits) < args.particles) ++bits;
  const RowPlan plan{bits == 6 ? 7 : bits};
  launch_blocks("chain_bound", ceil_div(args.batch, plan.rows()), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((chain_bound_kernel<T>), grid, kRowThreads, 0, stream, args, plan, first);
  });
}

template <class T>
__device__ inline T bound_grad(const BoundGradArgs<T>& args, int64_t b) {
  return args.grad[b] * chain::slope_of(args.step[b], args.limit[b], args.slope);
}

template <class T>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    chain_bound_back_kernel(BoundGradArgs<T> args, int64_t first_block) {
  const int64_t b = (first_block + blockIdx.x) * kRowThreads + threadIdx.x;
  if (b < args.batch) args.grad_step[b] = bound_grad(args, b);
}

// The block first_block, which is 0, sums over all problems.
template <class T>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    chain_bound_back_sum_kernel(BoundGradArgs<T> args, int64_t first_block) {
  SVGDX_SHARED(T, partial, kRowWarps);
  const RowGroup group(RowPlan{7});
  T sum = 0;
  SVGDX_UNROLL_BY(1)
  for (int64_t b = group.lane; b < args.batch; b += group.lanes) sum += bound_grad(args, b);
  sum = group.combine(sum, Sum<T>(), partial);
  if (group.lane == 0) args.grad_step[first_block + blockIdx.x] = sum;
}

template <class T>
void chain_bound_backward(const BoundGradArgs<T>& args, void* stream) {
  if (args.step.stride == 0) {
    return launch_blocks("chain_bound_backward", 1, [&](unsigned grid, int64_t first) {
      SVGDX_LAUNCH((chain_bound_back_sum_kernel<T>), grid, kRowThreads, 0, stream, args, first);
    });
  }
  launch_blocks("chain_bound_backward", ceil_div(args.batch, kRowThreads), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((chain_bound_back_kernel<T>), grid, kRowThreads, 0, stream, args, first);
  });
}

template <class T>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    chain_learnt_kernel(LearntArgs<T> args, int64_t first_block) {
  const int64_t i = (first_block + blockIdx.x) * kRowThreads + threadIdx.x;
  if (i >= args.count) return;
  args.out[i] = args.grad == nullptr ? chain::learnt(args.raw[i], args.low, args.width)
                                     : args.grad[i] * chain::learnt_slope(args.raw[i], args.low, args.width);
}

template <class T>
void chain_learnt(const LearntArgs<T>& args, void* stream) {
  launch_blocks("chain_learnt", ceil_div(args.count, kRowThreads), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((chain_learnt_kernel<T>), grid, kRowThreads, 0, stream, args, first);
  });
}

}  // namespace svgdx::cuda
