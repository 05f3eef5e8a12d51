// Completes a row from its sums over the columns, and the kernel that does so for sums that several blocks have formed
// in parts.
#pragma once

#include "common/cuda/divider.cuh"
#include "common/cuda/launch.cuh"
#include "common/cuda/warp.cuh"
#include "field/args.h"

namespace svgdx::cuda {

// Stores trace and stein of one row; `index` counts the rows of all batch entries.
template <class T>
__device__ inline void write_scalars(const FieldArgs<T>& args, int64_t b, int64_t index, T beta, T trace_sum,
                                     T score_dot_phi, T score_dot_score) {
  const T inverse = T(1) / static_cast<T>(args.shape.cols);
  const T t = beta * inverse * trace_sum;
  if (args.trace != nullptr) {
    if (!args.step) {
      args.trace[index] = t;
    } else {
      const T hessian = args.hessian_trace == nullptr ? T(0) : args.hessian_trace[index] * inverse;
      args.trace[index] = args.log_q[index] - args.step[b] * (t + hessian);
    }
  }
  if (args.stein != nullptr) {
    const T diagonal = inverse * (args.stein_diagonal ? beta * static_cast<T>(args.shape.dim) : -score_dot_score);
    args.stein[index] = score_dot_phi + t + diagonal;
  }
}

// Sums of rows [row0, row0 + rows) of `batches` batch entries starting at batch0, in `parts` parts:
// z (parts, batches, rows, dim), trace (trace_parts, batches, rows).
template <class T>
struct FieldSums {
  const T* z;
  const T* trace;
  int64_t parts, trace_parts, batch0, row0, batches, rows;
  Divider by_rows;
};

// One warp per row; parts are added in order.
template <class T>
__global__ void __launch_bounds__(128, kRowBlocks)
    finish_field_kernel(FieldArgs<T> args, FieldSums<T> sums, int64_t first_block) {
  const int64_t count = sums.batches * sums.rows;
  const int64_t local = (first_block + blockIdx.x) * 4 + threadIdx.x / 32;
  if (local >= count) return;
  const int lane = threadIdx.x % 32;
  int64_t b = local;
  const int64_t row = sums.row0 + sums.by_rows.split(b);
  b += sums.batch0;
  const int64_t index = b * args.shape.rows + row;
  const int64_t dim = args.shape.dim;
  const T inverse = T(1) / static_cast<T>(args.shape.cols);
  T score_dot = 0;
  T own = 0;
  SVGDX_UNROLL_BY(1)
  for (int64_t d = lane; d < dim; d += 32) {
    T value = 0;
    SVGDX_UNROLL_BY(2)
    for (int64_t p = 0; p < sums.parts; ++p) value += sums.z[(p * count + local) * dim + d];
    value *= inverse;
    if (args.stein != nullptr) {
      const T s = args.score[index * dim + d];
      score_dot += s * value;
      own += s * s;
    }
    if (args.phi == nullptr) continue;
    if (args.step) value = args.query[index * dim + d] + args.step[b] * value;
    args.phi[index * dim + d] = value;
  }
  score_dot = lane_sum(score_dot, 1, 32);
  own = lane_sum(own, 1, 32);
  if (lane != 0) return;
  T trace_sum = 0;
  SVGDX_UNROLL_BY(1)
  for (int64_t p = 0; p < sums.trace_parts; ++p) trace_sum += sums.trace[p * count + local];
  write_scalars(args, b, index, beta_of(args.bandwidth, b), trace_sum, score_dot, own);
}

template <class T>
void finish_field(const FieldArgs<T>& args, FieldSums<T> sums, void* stream) {
  sums.by_rows = Divider(sums.rows);
  launch_blocks("field_forward", ceil_div(sums.batches * sums.rows, 4), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((finish_field_kernel<T>), grid, 128, 0, stream, args, sums, first);
  });
}

}  // namespace svgdx::cuda
