// phi, trace and stein for dim > 16: pair sums, kernel values and trace sums, product with the columns, epilogue.
#pragma once

#include "field/cuda/finish.cuh"
#include "field/cuda/large_plan.cuh"
#include "field/cuda/product.cuh"
#include "field/pair.h"

namespace svgdx::cuda {

// One warp per row. Replaces the pair sums by kernel values in place and writes sum_j kappa (D - r.z) to trace_sums,
// (batches, rows).
template <class T>
__global__ void __launch_bounds__(128, kRowBlocks)
    forward_kernel_values(FieldArgs<T> args, PairBlock block, T* sums, T* trace_sums, bool first, int64_t first_block) {
  const int64_t local = (first_block + blockIdx.x) * 4 + threadIdx.x / 32;
  if (local >= block.batches * block.rows) return;
  int64_t batch = local;
  const int64_t row = block.by_rows.split(batch);
  const T beta = beta_of(args.bandwidth, block.batch0 + batch);
  const T scale = beta * T(-0.5 * pair::kLog2E);
  const T dim = static_cast<T>(args.shape.dim);
  const int64_t self = args.self ? block.row0 + row - block.col0 : int64_t(-1);
  T trace_sum = 0;
  SVGDX_UNROLL_BY(1)
  for (int64_t j = threadIdx.x % 32; j < block.cols; j += 32) {
    const int64_t at = row * block.padded_cols + j;
    T q = 0;
    T r_dot_s = 0;
    SVGDX_UNROLL_BY(2)
    for (int64_t split = 0; split < block.dim_splits; ++split) {
      q += sums[block.plane(split, 0, ForwardPairs::kSums, batch) + at];
      r_dot_s += sums[block.plane(split, 1, ForwardPairs::kSums, batch) + at];
    }
    const T kappa = power_of_two(scale * q);
    sums[block.plane(0, 0, ForwardPairs::kSums, batch) + at] = kappa;
    if (j != self && kappa != T(0)) trace_sum += pair::trace_term(kappa, dim, r_dot_s + beta * q);
  }
  trace_sum = lane_sum(trace_sum, 1, 32);
  if (threadIdx.x % 32 == 0) trace_sums[local] = first ? trace_sum : trace_sums[local] + trace_sum;
}

inline LargePlan plan_large_forward(const FieldShape& shape) {
  return plan_large(shape, ForwardPairs::kSums, ForwardProduct::kOuts);
}

// Layout of scratch: pair sums, then trace sums, then the parts of the product.
template <class T>
int64_t large_forward_bytes(const FieldShape& shape) {
  const LargePlan plan = plan_large_forward(shape);
  const int64_t rows = plan.batches * plan.rows;
  return (plan.pair_elements() + aligned_elements(rows) + plan.parts * rows * shape.dim) * int64_t(sizeof(T));
}

template <class T>
void field_forward_large(const FieldArgs<T>& args, T* scratch, void* stream) {
  const FieldShape& shape = args.shape;
  const LargePlan plan = plan_large_forward(shape);
  const bool wide =
      is_aligned(args.query, shape.dim) && is_aligned(args.x, shape.dim) && is_aligned(args.score, shape.dim);
  T* sums = scratch;
  T* trace_sums = sums + plan.pair_elements();
  T* parts = trace_sums + aligned_elements(plan.batches * plan.rows);
  const PairInputs<T> pairs{shape, {args.query}, {args.x, args.score}, wide};
  for_each_block(shape, plan, [&](const PairBlock& block, bool first, bool last) {
    const char* op = "field_forward";
    pair_sums<T, ForwardPairs>(op, pairs, block, sums, stream);
    launch_blocks(op, ceil_div(block.batches * block.rows, 4), [&](unsigned grid, int64_t first_block) {
      SVGDX_LAUNCH((forward_kernel_values<T>), grid, 128, 0, stream, args, block, sums, trace_sums, first, first_block);
    });
    const ProductInputs<T> in{
        shape, args.query, {args.x, args.score}, nullptr,    nullptr,           T(1), args.bandwidth,
        wide,  first,      ForwardPairs::kSums,  plan.parts, plan.cols_per_part};
    product<T, ForwardProduct>(op, in, block, sums, parts, stream);
    if (!last) return;
    finish_field(args,
                 FieldSums<T>{parts, trace_sums, plan.parts, 1, block.batch0, block.row0, block.batches, block.rows},
                 stream);
  });
}

}  // namespace svgdx::cuda
