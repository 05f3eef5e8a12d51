// Kernel values from the expanded sums of pairs.
#pragma once

#include "field/cuda/expanded/expand.cuh"
#include "field/cuda/fused/pairs.cuh"
#include "field/cuda/pairs.cuh"

namespace svgdx::cuda {

// A group of lanes per row, which take its columns in turn. Replaces the sums by kernel values in place and
// writes their sum and sum_j kappa (D - r.z) for each row. A particle's value with itself is 0. If some sum cancels,
// its batch entry is marked, and what is written here is written anew.
// Occupancy is below one half: a lane's packs stay in registers.
static __global__ void __launch_bounds__(kRowThreads, kPackBlocks)
    expanded_kernel_values(FieldArgs<float> args, PairBlock block, Expansion expansion, ColumnPlan plan, float* sums,
                           float* trace_sums, int64_t first_block) {
  SVGDX_SHARED(float, shares, kRowWarps);
  const RowGroup group(plan.rows);
  const int64_t local = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const bool active = local < block.batches * block.rows;
  int64_t batch = active ? local : 0;
  const int64_t row = block.by_rows.split(batch);
  const float beta = beta_of(args.bandwidth, block.batch0 + batch);
  const float scale = beta * float(-0.5 * pair::kLog2E);
  const float dim = static_cast<float>(args.shape.dim);
  const int64_t self = args.self ? block.row0 + row : int64_t(-1);
  const float row_norm = expansion.row_norm[batch * args.shape.rows + block.row0 + row];
  const int64_t col0 = batch * args.shape.cols;
  float trace_sum = 0;
  float kappa_sum = 0;
  bool cancels = false;
  SVGDX_UNROLL_BY(1)
  for (int64_t chunk = 0; active && chunk < plan.chunks; ++chunk) {
    const Columns<float> columns(plan, group.lane, chunk);
    WidePack<float> x_x{};
    WidePack<float> x_s{};
    SVGDX_UNROLL_BY(2)
    for (int64_t split = 0; split < block.dim_splits; ++split) {
      const float* from = sums + row * block.padded_cols;
      const WidePack<float> more_x = columns.load(from + block.plane(split, 0, ForwardPairs::kSums, batch));
      const WidePack<float> more_s = columns.load(from + block.plane(split, 1, ForwardPairs::kSums, batch));
      SVGDX_UNROLL
      for (int w = 0; w < kPackWidth<float>; ++w) {
        x_x.v[w] += more_x.v[w];
        x_s.v[w] += more_s.v[w];
      }
    }
    WidePack<float> kappa{};
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<float>; ++w) {
      const int64_t j = columns.first + w * columns.step;
      if (j >= block.cols || j == self) continue;
      const float norms = row_norm + expansion.col_norm[col0 + j];
      const float q = norms - 2 * x_x.v[w];
      cancels = cancels || !(norms <= kMostCancelled * q);
      kappa.v[w] = power_of_two(scale * q);
      if (kappa.v[w] == 0) continue;
      kappa_sum += kappa.v[w];
      const float r_dot_s = x_s.v[w] - expansion.col_weight[col0 + j];
      trace_sum += pair::trace_term(kappa.v[w], dim, r_dot_s + beta * q);
    }
    columns.store(sums + row * block.padded_cols + block.plane(0, 0, ForwardPairs::kSums, batch), kappa);
  }
  if (cancels) atomicOr(expansion.cancels + batch, 1);
  trace_sum = group.combine(trace_sum, Sum<float>(), shares);
  kappa_sum = group.combine(kappa_sum, Sum<float>(), shares);
  if (!active || group.lane != 0) return;
  trace_sums[local] = trace_sum;
  expansion.kappa[local] = kappa_sum;
}

}  // namespace svgdx::cuda
