// Completes a row from its sums over the columns, and the kernel that does so for sums that several blocks have formed
// in parts.
#pragma once

#include "common/cuda/columns.cuh"
#include "common/cuda/stored.cuh"
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

// A group of lanes per row, which take packs of its dimensions in turn; parts are added in order.
template <class T>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    finish_field_kernel(FieldArgs<T> args, FieldSums<T> sums, ColumnPlan plan, int64_t first_block) {
  SVGDX_SHARED(T, shares, kRowWarps);
  const RowGroup group(plan.rows);
  const int64_t count = sums.batches * sums.rows;
  const int64_t local = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const bool active = local < count;
  int64_t b = active ? local : 0;
  const int64_t row = sums.row0 + sums.by_rows.split(b);
  b += sums.batch0;
  const int64_t index = b * args.shape.rows + row;
  const int64_t dim = args.shape.dim;
  const T inverse = T(1) / static_cast<T>(args.shape.cols);
  const T step = args.step ? args.step[b] : T(0);
  T score_dot = 0;
  T own = 0;
  SVGDX_UNROLL_BY(1)
  for (int64_t chunk = 0; active && chunk < plan.chunks; ++chunk) {
    const Columns<T> columns(plan, group.lane, chunk);
    WidePack<T> value{};
    SVGDX_UNROLL_BY(4)
    for (int64_t p = 0; p < sums.parts; ++p) columns.add(value, sums.z + (p * count + local) * dim);
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<T>; ++w) value.v[w] *= inverse;
    if (args.stein != nullptr) {
      const WidePack<T> score = load_columns(columns, stored(args, args.score) + index * dim);
      SVGDX_UNROLL
      for (int w = 0; w < kPackWidth<T>; ++w) {
        score_dot += score.v[w] * value.v[w];
        own += score.v[w] * score.v[w];
      }
    }
    if (args.phi == nullptr) continue;
    if (args.step) {
      const WidePack<T> x = load_columns(columns, stored(args, args.query) + index * dim);
      SVGDX_UNROLL
      for (int w = 0; w < kPackWidth<T>; ++w) value.v[w] = x.v[w] + step * value.v[w];
    }
    store_columns(columns, args.phi, args.format, index * dim, value);
  }
  if (args.stein != nullptr) {
    score_dot = group.combine(score_dot, Sum<T>(), shares);
    own = group.combine(own, Sum<T>(), shares);
  }
  if (!active || group.lane != 0) return;
  T trace_sum = 0;
  SVGDX_UNROLL_BY(4)
  for (int64_t p = 0; p < sums.trace_parts; ++p) trace_sum += sums.trace[p * count + local];
  write_scalars(args, b, index, beta_of(args.bandwidth, b), trace_sum, score_dot, own);
}

template <class T>
void finish_field(const FieldArgs<T>& args, FieldSums<T> sums, void* stream) {
  sums.by_rows = Divider(sums.rows);
  const ColumnPlan plan = plan_rows<T>(args.shape.dim, sums.z, args.query, args.score, args.phi);
  launch_blocks("field_forward", plan.row_blocks(sums.batches * sums.rows), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((finish_field_kernel<T>), grid, kRowThreads, 0, stream, args, sums, plan, first);
  });
}

}  // namespace svgdx::cuda
