// Writes the rows of a block of the fused kernels from its warps' sums over their columns.
#pragma once

#include "field/cuda/finish.cuh"
#include "field/cuda/fused/pairs.cuh"

namespace svgdx::cuda {

// In shared memory, warp after warp: those with the same rows, every row_warps-th, have different columns.
struct WarpSums {
  float* z;             // (warps, rows of a warp, stride): sum_j kappa_ij Y_j, or of z_ij for pairs by differences
  float* trace;         // (warps, rows of a warp)
  float* kappa;         // the same: of the pairs that add Y_j
  const float* centre;  // (dim)
  int stride;

  // Stores a warp's 16 rows from `row0` on, P / 8 blocks of dimensions of each: z(n, e) is element e of the n-th.
  template <int P, class Z>
  __device__ void store(int row0, Z own_z, const float (&own_trace)[2], const float (&own_kappa)[2]) const {
    const int lane = threadIdx.x % 32;
    SVGDX_UNROLL
    for (int e = 0; e < 4; ++e) {
      SVGDX_UNROLL
      for (int n = 0; n < P / 8; ++n) {
        z[(row0 + FusedPairs::row(e)) * stride + 8 * n + lane % 4 * 2 + e % 2] = own_z(n, e);
      }
    }
    SVGDX_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float row_trace = lane_sum(own_trace[half], 1, 4);
      const float row_kappa = lane_sum(own_kappa[half], 1, 4);
      if (lane % 4 != 0) continue;
      trace[row0 + lane / 4 + 8 * half] = row_trace;
      kappa[row0 + lane / 4 + 8 * half] = row_kappa;
    }
  }
};

// Adds the warps' sums in the order of their columns and writes the block's rows, a warp for each row in turn.
__device__ inline void write_rows(const WarpSums& sums, const FieldArgs<float>& args, const FusedPlan& plan,
                                  const FieldBlock& block, float beta, float* partial) {
  const FieldShape& shape = args.shape;
  const int dim = static_cast<int>(shape.dim);
  const int lane = threadIdx.x % 32;
  const int64_t all_rows = shape.batch * shape.rows;
  const StoredFloats query = stored(args, args.query);
  const StoredFloats scores = stored(args, args.score);
  const float inverse = partial == nullptr ? 1 / static_cast<float>(shape.cols) : 1.0f;
  for (int row = threadIdx.x / 32; row < block.rows; row += kFusedWarps) {
    const int64_t index = block.batch * shape.rows + block.row0 + row;
    const int64_t part = block.split * all_rows + index;
    const int step = plan.rows_per_block();
    float trace = 0;
    float kappa = 0;
    for (int at = row; at < kFusedWarps * plan.warp_rows; at += step) {
      trace += sums.trace[at];
      kappa += sums.kappa[at];
    }
    float score_dot = 0;
    float own = 0;
    for (int d = lane; d < dim; d += 32) {
      float value = 0;
      for (int at = row; at < kFusedWarps * plan.warp_rows; at += step) value += sums.z[at * sums.stride + d];
      const float x = query[index * dim + d];
      if (kappa != 0) value += beta * (x - sums.centre[d]) * kappa;
      // A row's pair with itself is its score, whatever beta.
      const float score = args.self ? scores[index * dim + d] : 0.0f;
      if (block.split == 0) value += score;
      value *= inverse;
      if (partial != nullptr) {
        partial[part * dim + d] = value;
        continue;
      }
      score_dot += score * value;
      own += score * score;
      if (args.phi == nullptr) continue;
      if (args.step) value = x + args.step[block.batch] * value;
      store_number(args.phi, args.format, index * dim + d, value);
    }
    score_dot = lane_sum(score_dot, 1, 32);
    own = lane_sum(own, 1, 32);
    if (lane != 0) continue;
    if (partial != nullptr) {
      partial[plan.splits * all_rows * dim + part] = trace;
    } else {
      write_scalars(args, block.batch, index, beta, trace, score_dot, own);
    }
  }
}

}  // namespace svgdx::cuda
