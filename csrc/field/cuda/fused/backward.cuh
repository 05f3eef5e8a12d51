// The backward pass in one launch for 16 < dim <= 64, and for dim > 8 with many columns, in float32. It is
// built like forward.cuh, but takes seven products of rows and columns and three of weights and columns.
#pragma once

#include "field/cuda/fused/grad_pairs.cuh"

namespace svgdx::cuda {

// Puts the warps' sums into shared memory.
template <int P>
__device__ inline void store_grad_sums(const FusedGradSums<P>& sums, const FusedGradTile<P>& tile) {
  using Tile = FusedGradTile<P>;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  __syncthreads();
  SVGDX_UNROLL
  for (int e = 0; e < 4; ++e) {
    SVGDX_UNROLL
    for (int b = 0; b < P / 8; ++b) {
      float* to = tile.sums + (warp * 16 + FusedPairs::row(e)) * Tile::kStride + 8 * b + lane % 4 * 2 + e % 2;
      to[0] = sums.both[b][e];
      to[Tile::kWarpRows * Tile::kStride] = sums.score[b][e];
    }
  }
  SVGDX_UNROLL
  for (int half = 0; half < 2; ++half) {
    const RowScalars<float>& row = sums.rows[half];
    const float values[Tile::kScalars] = {row.kappa,     row.kappa_h,     row.value,
                                          row.log_sigma, sums.lean[half], sums.kappa_h[half]};
    SVGDX_UNROLL
    for (int s = 0; s < Tile::kScalars; ++s) {
      const float value = lane_sum(values[s], 1, 4);
      if (lane % 4 == 0) tile.scalars[s * Tile::kWarpRows + warp * 16 + lane / 4 + 8 * half] = value;
    }
  }
  __syncthreads();
}

// Adds what the warps with the same rows have stored, in the order of their columns.
template <int P>
struct StoredGradSums {
  using Tile = FusedGradTile<P>;
  const Tile& tile;
  int rows;  // of the block
  float beta;

  __device__ float scalar(int s, int row) const {
    float sum = 0;
    for (int at = row; at < Tile::kWarpRows; at += rows) sum += tile.scalars[s * Tile::kWarpRows + at];
    return sum;
  }
  // Sums of x and of the score as BackwardProduct forms them, from the row's scalars 4 and 5.
  __device__ void vectors(float& x_sum, float& score_sum, int row, int d, float lean, float kappa_h) const {
    float both = 0;
    score_sum = 0;
    for (int at = row; at < Tile::kWarpRows; at += rows) {
      both += tile.sums[at * Tile::kStride + d];
      score_sum += tile.sums[(Tile::kWarpRows + at) * Tile::kStride + d];
    }
    const float x = tile.rows.x[row * Tile::kStride + d];
    if (lean != 0) both -= x * lean;
    if (kappa_h != 0) score_sum += x * (beta * kappa_h);
    x_sum = both - score_sum;
  }
};

// Writes the sums of the block's rows over its columns: vectors (splits, 2, batch, rows, dim), then scalars
// (splits, 4, batch, rows). Neighbouring threads write neighbouring numbers, also of different rows.
template <int P>
__device__ inline void write_grad_parts(const StoredGradSums<P>& sums, const FieldShape& shape, const FusedPlan& plan,
                                        const FieldBlock& block, float* partial) {
  const int64_t all_rows = shape.batch * shape.rows;
  const int64_t first = block.batch * shape.rows + block.row0;
  float* vectors = partial + (block.split * 2 * all_rows + first) * shape.dim;
  RowWalk walk(threadIdx.x, kFusedThreads, static_cast<int>(shape.dim));
  for (int e = threadIdx.x; walk.row < block.rows; walk.advance(), e += kFusedThreads) {
    float x_sum;
    float score_sum;
    sums.vectors(x_sum, score_sum, walk.row, walk.d, sums.scalar(4, walk.row), sums.scalar(5, walk.row));
    vectors[e] = x_sum;
    vectors[all_rows * shape.dim + e] = score_sum;
  }
  float* scalars = partial + plan.splits * 2 * all_rows * shape.dim;
  for (int e = threadIdx.x; e < RowScalars<float>::kCount * plan.rows_per_block(); e += kFusedThreads) {
    const int s = e / plan.rows_per_block();
    const int row = e % plan.rows_per_block();
    if (row >= block.rows) continue;
    scalars[(block.split * RowScalars<float>::kCount + s) * all_rows + first + row] = sums.scalar(s, row);
  }
}

// Writes the gradients of the block's rows, a warp for each in turn.
template <int P>
__device__ inline void write_grad_rows(const StoredGradSums<P>& sums, const FieldGradArgs<float>& args,
                                       const FieldBlock& block) {
  const int dim = static_cast<int>(args.shape.dim);
  const int lane = threadIdx.x % 32;
  const RowFinish<float> finish(args, block.batch);
  for (int row = threadIdx.x / 32; row < block.rows; row += kFusedWarps) {
    const int64_t index = block.batch * args.shape.rows + block.row0 + row;
    const RowScalars<float> scalars{sums.scalar(0, row), sums.scalar(1, row), sums.scalar(2, row), sums.scalar(3, row)};
    const float lean = sums.scalar(4, row);
    const float kappa_h = sums.scalar(5, row);
    float own = 0;
    for (int d = lane; d < dim; d += 32) {
      float x_sum;
      float score_sum;
      sums.vectors(x_sum, score_sum, row, d, lean, kappa_h);
      const float g = GradParticles::read(stored(args, args.row_grad_phi), index * dim + d);
      const float s = GradParticles::read(stored(args, args.row_score), index * dim + d);
      const float dx = finish.grad_x(x_sum, g, s, scalars);
      own += g * s;
      store_number(args.grad_x, args.format, index * dim + d, args.step ? finish.scale * dx + g : dx);
      if (args.grad_score == nullptr) continue;
      const float ds = finish.scale * finish.grad_score(score_sum, g, args.self);
      store_number(args.grad_score, args.format, index * dim + d, ds);
    }
    own = lane_sum(own, 1, 32);
    if (lane == 0) write_row_scalars(args, finish, scalars, index, own);
  }
}

// Occupancy is below one half: a warp's sums stay in registers, and its products on tensor cores are independent of one
// another and hide the latency in place of other warps.
template <int P, int Parts>
__global__ void __launch_bounds__(kFusedThreads, P <= 32 ? 3 : 2)
    field_fused_backward_kernel(FieldGradArgs<float> args, FusedPlan plan, float* partial, bool wide,
                                int64_t first_block) {
  using Tile = FusedGradTile<P>;
  const Tile tile(plan.rows_per_block());
  const FieldShape& shape = args.shape;
  const int dim = static_cast<int>(shape.dim);
  const FieldBlock block(plan, shape, first_block + blockIdx.x);
  const int row0 = plan.row0();
  const float beta = beta_of(args.bandwidth, block.batch);
  const float sign = trace_sign(args);
  const int64_t first_row = block.batch * shape.rows + block.row0;
  const StoredFloats centre = stored(args, args.row_x) + first_row * dim;
  for (int d = threadIdx.x; d < P; d += kFusedThreads) tile.centre[d] = d < dim ? centre[d] : 0.0f;
  __syncthreads();
  tile.load(tile.rows, GradParticles::rows(args, first_row, block.rows), plan.rows_per_block(), dim, beta, sign, wide);
  FusedGradSums<P> sums;
  for (int64_t j0 = block.col0; j0 < block.col1; j0 += Tile::kCols) {
    const int count = static_cast<int>(min(block.col1 - j0, int64_t(Tile::kCols)));
    const int64_t first_col = block.batch * shape.cols + j0;
    __syncthreads();
    tile.load(tile.cols, GradParticles::cols(args, first_col, count), Tile::kCols, dim, beta, sign, wide);
    __syncthreads();
    if (row0 >= block.rows) continue;
    const GradBlock pairs{args,
                          (first_row + row0) * dim,
                          first_col * dim,
                          block.rows - row0,
                          count,
                          row0,
                          dim,
                          (dim + 7) / 8,
                          block.row0 + row0 - j0,
                          beta,
                          P <= 32 ? kSmallNorms / (beta * float(0.5 * pair::kLog2E)) : 0.0f};
    for (int col0 = 8 * plan.col_warp(); col0 < count; col0 += 8 * plan.col_warps()) {
      add_grad_pairs<Parts>(sums, tile, pairs, col0);
    }
  }
  store_grad_sums(sums, tile);
  const StoredGradSums<P> stored{tile, plan.rows_per_block(), beta};
  if (partial == nullptr) return write_grad_rows(stored, args, block);
  write_grad_parts(stored, shape, plan, block, partial);
}

// Sums of more dimensions would not fit the registers.
constexpr int kFusedGradDims = 64;

inline bool is_fused_backward(const FieldShape& shape) { return shape.dim <= kFusedGradDims && is_fused(shape); }

inline FusedPlan plan_fused_grad(const FieldShape& shape) {
  return dispatch_fused<kFusedGradDims>(shape.dim, [&](auto p) { return plan_fused_grad(shape, p()); });
}

inline int64_t fused_backward_bytes(const FieldShape& shape) {
  const int64_t splits = plan_fused_grad(shape).splits;
  const int64_t per_row = 2 * shape.dim + RowScalars<float>::kCount;
  return splits > 1 ? splits * shape.batch * shape.rows * per_row * int64_t(sizeof(float)) : 0;
}

inline void field_backward_fused(const FieldGradArgs<float>& args, bool wide, float* scratch, void* stream) {
  const FieldShape& shape = args.shape;
  const FusedPlan plan = plan_fused_grad(shape);
  float* partial = plan.splits > 1 ? scratch : nullptr;
  dispatch_fused<kFusedGradDims>(shape.dim, [&](auto p) {
    constexpr int P = decltype(p)::value;
    const size_t shared = FusedGradTile<P>::bytes(plan.rows_per_block());
    launch_blocks("field_backward", plan.blocks, [&](unsigned grid, int64_t first) {
      dispatch_parts(args.tf32, [&](auto parts) {
        constexpr int Parts = decltype(parts)::value;
        SVGDX_LAUNCH((field_fused_backward_kernel<P, Parts>), grid, kFusedThreads, shared, stream, args, plan, partial,
                     wide, first);
      });
    });
  });
  if (partial == nullptr) return;
  const float* scalars = partial + plan.splits * 2 * shape.batch * shape.rows * shape.dim;
  finish_field_backward(
      args, FieldGradSums<float>{partial, scalars, plan.splits, plan.splits, 0, 0, shape.batch, shape.rows, {}},
      stream);
}

}  // namespace svgdx::cuda
