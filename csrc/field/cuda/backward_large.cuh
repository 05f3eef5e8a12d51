// The backward pass in double for dim > 8: pair sums, weights of each pair, product with the columns, epilogue.
#pragma once

#include "field/cuda/backward_pair.cuh"
#include "field/cuda/large_plan.cuh"
#include "field/cuda/product.cuh"

namespace svgdx::cuda {

// A group of lanes per row, which take its columns in turn. Replaces the pair sums, in place, by kappa (plane 0) and
// the weight of r (plane 1); scalars is (RowScalars::kCount, batches, rows). In double a pair's five sums need more
// than 64 registers on sm_100; spills would cost more than an occupancy below one half.
// Occupancy is below one half: a lane's packs stay in registers.
template <class T>
__global__ void __launch_bounds__(kRowThreads, kPackBlocks)
    backward_weights(FieldGradArgs<T> args, PairBlock block, RowPlan plan, T* sums, T* scalars, bool first,
                     int64_t first_block) {
  constexpr int kSums = BackwardPairs::kSums;
  SVGDX_SHARED(T, shares, kRowWarps);
  const RowGroup group(plan);
  const int64_t count = block.batches * block.rows;
  const int64_t local = (first_block + blockIdx.x) * plan.rows() + group.row;
  const bool active = local < count;
  int64_t batch = active ? local : 0;
  const int64_t row = block.by_rows.split(batch);
  const int64_t b = block.batch0 + batch;
  const T beta = beta_of(args.bandwidth, b);
  const T sign = trace_sign(args);
  const int64_t index = b * args.shape.rows + block.row0 + row;
  const T h_i = args.row_grad_trace == nullptr ? T(0) : sign * args.row_grad_trace[index];
  const T* col_h = args.col_grad_trace == nullptr ? nullptr : args.col_grad_trace + b * args.shape.cols + block.col0;
  const int64_t self = args.self ? block.row0 + row - block.col0 : int64_t(-1);
  RowScalars<T> row_sums{};
  SVGDX_UNROLL_BY(1)
  for (int64_t j = group.lane; active && j < block.cols; j += group.lanes) {
    T* at = sums + row * block.padded_cols + j;
    T sum[kSums] = {};
    SVGDX_UNROLL_BY(2)
    for (int64_t split = 0; split < block.dim_splits; ++split) {
      SVGDX_UNROLL
      for (int s = 0; s < kSums; ++s) sum[s] += at[block.plane(split, s, kSums, batch)];
    }
    const T h_j = col_h == nullptr ? T(0) : sign * col_h[j];
    const PairWeights<T> w(sum, beta, static_cast<T>(args.shape.dim), h_i, h_j, j == self);
    w.add_to(row_sums, h_j);
    at[block.plane(0, 0, kSums, batch)] = w.kappa;
    at[block.plane(0, 1, kSums, batch)] = w.radial;
  }
  T values[] = {row_sums.kappa, row_sums.kappa_h, row_sums.value, row_sums.log_sigma};
  SVGDX_UNROLL
  for (int s = 0; s < RowScalars<T>::kCount; ++s) values[s] = group.combine(values[s], Sum<T>(), shares);
  if (!active || group.lane != 0) return;
  SVGDX_UNROLL
  for (int s = 0; s < RowScalars<T>::kCount; ++s) {
    T* to = scalars + s * count + local;
    *to = first ? values[s] : *to + values[s];
  }
}

inline LargePlan plan_large_backward(const FieldShape& shape) {
  return plan_large(shape, BackwardPairs::kSums, BackwardProduct::kOuts);
}

// Layout of scratch: pair sums, then the rows' scalars, then the parts of the product.
template <class T>
int64_t large_backward_bytes(const FieldShape& shape) {
  const LargePlan plan = plan_large_backward(shape);
  const int64_t rows = plan.batches * plan.rows;
  return (plan.pair_elements() + aligned_elements(rows * RowScalars<T>::kCount) +
          plan.parts * plan.outs * rows * shape.dim) *
         int64_t(sizeof(T));
}

template <class T>
void field_backward_large(const FieldGradArgs<T>& args, bool wide, T* scratch, void* stream) {
  const FieldShape& shape = args.shape;
  const LargePlan plan = plan_large_backward(shape);
  T* sums = scratch;
  T* scalars = sums + plan.pair_elements();
  T* vectors = scalars + aligned_elements(plan.batches * plan.rows * RowScalars<T>::kCount);
  const PairInputs<T> pairs{shape,
                            args.format,
                            {args.row_x, args.row_score, args.row_grad_phi},
                            {args.col_x, args.col_score, args.col_grad_phi},
                            wide};
  ProductInputs<T> in{};
  in.shape = shape;
  in.format = args.format;
  in.row_x = args.row_x;
  for (int a = 0; a < 3; ++a) in.col[a] = pairs.col[a];
  in.row_h = args.row_grad_trace;
  in.col_h = args.col_grad_trace;
  in.h_sign = trace_sign(args);
  in.bandwidth = args.bandwidth;
  in.wide = wide;
  in.sums = plan.sums;
  in.grid = {plan.parts, plan.cols_per_part, {}, {}, {}};
  for_each_block(shape, plan, [&](const PairBlock& block, bool first, bool last) {
    const char* op = "field_backward";
    pair_sums<T, BackwardPairs>(op, pairs, block, sums, stream);
    const RowPlan weights{chunk_lanes<T>(block.cols, false) + (block.cols > 64 ? 2 : 0)};
    launch_blocks(op, ceil_div(block.batches * block.rows, weights.rows()), [&](unsigned grid, int64_t first_block) {
      SVGDX_LAUNCH((backward_weights<T>), grid, kRowThreads, 0, stream, args, block, weights, sums, scalars, first,
                   first_block);
    });
    in.first = first;
    product<T, BackwardProduct>(op, in, block, sums, vectors, stream);
    if (!last) return;
    FieldGradSums<T> done{vectors, scalars, plan.parts, 1, block.batch0, block.row0, block.batches, block.rows, {}};
    finish_field_backward(args, done, stream);
  });
}

}  // namespace svgdx::cuda
