// Sums rows' log-probabilities over trajectories, in an order that depends only on their lengths.
#pragma once

#include "common/cuda/divider.cuh"
#include "trajectory/args.h"
#include "trajectory/cuda/row.cuh"

namespace svgdx::cuda {

template <class C>
__global__ void __launch_bounds__(kRowThreads)
    trajectory_sum_kernel(TrajectoryShape shape, RowPlan plan, const C* in, C* log_pf, C* log_pb, int64_t first_block) {
  SVGDX_SHARED(double, partial, kRowWarps);
  const RowGroup group(plan);
  const int64_t b = (first_block + blockIdx.x) * plan.rows() + group.row, rows = shape.steps + 1;
  double sum[2] = {0, 0};
  if (b < shape.batch) {
    SVGDX_UNROLL_BY(4)
    for (int64_t t = group.lane; t < rows; t += group.lanes) {
      Pack<C, 2> pair;
      load_pack(pair, in + 2 * (b * rows + t), 2, true);
      sum[0] += pair.v[0];
      sum[1] += pair.v[1];
    }
  }
  sum[0] = group.combine(sum[0], Sum<double>(), partial);
  sum[1] = group.combine(sum[1], Sum<double>(), partial);
  if (b >= shape.batch || group.lane != 0) return;
  log_pf[b] = C(sum[0]);
  log_pb[b] = C(sum[1]);
}

template <class C>
void trajectory_sum(const TrajectoryShape& shape, const C* in, C* log_pf, C* log_pb, void* stream) {
  const RowPlan plan = plan_rows(shape.steps + 1, 8);
  launch_blocks("gfn_trajectory_log_prob", ceil_div(shape.batch, plan.rows()), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((trajectory_sum_kernel<C>), grid, kRowThreads, 0, stream, shape, plan, in, log_pf, log_pb, first);
  });
}

// Whether [offsets[b], offsets[b + 1]) is a valid range of rows.
__device__ inline bool is_segment(const int64_t* offsets, int64_t b, int64_t segments, int64_t rows) {
  const int64_t begin = offsets[b], end = offsets[b + 1];
  return begin >= 0 && begin <= end && end <= rows && (b > 0 || begin == 0) && (b + 1 < segments || end == rows);
}

// One block, so that no partial results have to be combined.
static __global__ void __launch_bounds__(kRowThreads)
    check_offsets_kernel(int64_t segments, int64_t rows, const int64_t* offsets, int32_t* valid) {
  bool rises = offsets[0] == 0 && offsets[segments] == rows;
  SVGDX_UNROLL_BY(4)
  for (int64_t b = threadIdx.x; b < segments; b += kRowThreads) rises = offsets[b] <= offsets[b + 1] && rises;
  const int all_rise = __syncthreads_and(rises);
  if (threadIdx.x == 0) *valid = all_rise != 0;
}

inline void launch_check_offsets(int64_t segments, int64_t rows, const int64_t* offsets, int32_t* valid, void* stream) {
  SVGDX_LAUNCH((check_offsets_kernel), 1, kRowThreads, 0, stream, segments, rows, offsets, valid);
  SVGDX_LAUNCH_CHECK("masked_trajectory_log_prob");
}

// One warp per segment.
template <class C>
__global__ void __launch_bounds__(kRowThreads)
    segment_sum_kernel(int64_t segments, const int64_t* offsets, const int32_t* valid, const C* in, C* out,
                       int64_t first_block) {
  const int64_t b = (first_block + blockIdx.x) * kRowWarps + threadIdx.x / 32;
  if (b >= segments) return;
  double sum = 0;
  if (*valid != 0) {
    // Starts at the sector in which the segment begins, so that every request of the warp starts at a sector.
    const int64_t begin = offsets[b], end = offsets[b + 1];
    SVGDX_UNROLL_BY(4)
    for (int64_t n = begin - begin % 8 + threadIdx.x % 32; n < end; n += 32) {
      if (n >= begin) sum += in[n];
    }
  } else {
    sum = not_a_number<double>();
  }
  sum = lane_sum(sum, 1, 32);
  if (threadIdx.x % 32 == 0) out[b] = C(sum);
}

template <class C>
void segment_sum(int64_t segments, const int64_t* offsets, const int32_t* valid, const C* in, C* out, void* stream) {
  launch_blocks("masked_trajectory_log_prob", ceil_div(segments, kRowWarps), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((segment_sum_kernel<C>), grid, kRowThreads, 0, stream, segments, offsets, valid, in, out, first);
  });
}

}  // namespace svgdx::cuda
