// phi, trace and stein in one launch for 16 < dim <= 128, and for dim > 8 with many columns, in float32: a block holds
// 16 to 64 rows in shared memory, columns pass through it in tiles, and tensor cores form the dot products of rows with
// columns and the products of kernel values with columns. Kernel values never leave registers.
#pragma once

#include "field/cuda/finish.cuh"
#include "field/cuda/fused/pairs.cuh"

namespace svgdx::cuda {

// Adds the warps' sums in the order of their columns and writes the block's rows, a warp for each row in turn.
template <int P>
__device__ inline void write_fused(const FusedSums<P>& sums, const FusedTile<P>& tile, const FieldArgs<float>& args,
                                   const FusedPlan& plan, const FieldBlock& block, float beta, float* partial) {
  constexpr int kStride = FusedTile<P>::kStride;
  const FieldShape& shape = args.shape;
  const int dim = static_cast<int>(shape.dim);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  float* z = tile.x;            // (warps, 16, kStride), over both arrays of columns
  float* scalars = tile.stage;  // trace, then kappa: (warps, 16) each
  __syncthreads();
  SVGDX_UNROLL
  for (int e = 0; e < 4; ++e) {
    SVGDX_UNROLL
    for (int n = 0; n < P / 8; ++n) {
      z[(warp * 16 + FusedPairs::row(e)) * kStride + 8 * n + lane % 4 * 2 + e % 2] = sums.z[n][e];
    }
  }
  SVGDX_UNROLL
  for (int half = 0; half < 2; ++half) {
    const float trace = lane_sum(sums.trace[half], 1, 4);
    const float kappa = lane_sum(sums.kappa[half], 1, 4);
    if (lane % 4 != 0) continue;
    scalars[warp * 16 + lane / 4 + 8 * half] = trace;
    scalars[(kFusedWarps + warp) * 16 + lane / 4 + 8 * half] = kappa;
  }
  __syncthreads();
  const int64_t all_rows = shape.batch * shape.rows;
  const float inverse = partial == nullptr ? 1 / static_cast<float>(shape.cols) : 1.0f;
  for (int row = warp; row < block.rows; row += kFusedWarps) {
    const int64_t index = block.batch * shape.rows + block.row0 + row;
    const int64_t part = block.split * all_rows + index;
    float trace = 0;
    float kappa = 0;
    for (int w = row / 16; w < kFusedWarps; w += plan.row_warps) {
      trace += scalars[w * 16 + row % 16];
      kappa += scalars[(kFusedWarps + w) * 16 + row % 16];
    }
    float score_dot = 0;
    float own = 0;
    for (int d = lane; d < dim; d += 32) {
      float value = 0;
      for (int w = row / 16; w < kFusedWarps; w += plan.row_warps) value += z[(w * 16 + row % 16) * kStride + d];
      const float x = tile.rows[row * kStride + d];
      if (kappa != 0) value += beta * (x - tile.rows[d]) * kappa;
      // A row's pair with itself is its score, whatever beta.
      const float score = args.self ? args.score[index * dim + d] : 0.0f;
      if (block.split == 0) value += score;
      value *= inverse;
      if (partial != nullptr) {
        partial[part * dim + d] = value;
        continue;
      }
      score_dot += score * value;
      own += score * score;
      if (args.phi != nullptr) args.phi[index * dim + d] = args.step ? x + args.step[block.batch] * value : value;
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

// Resident blocks requested from the compiler.
template <int P>
constexpr int kFusedBlocks = P <= 32 ? 4 : (P <= 64 ? 3 : 2);

// Occupancy is below one half: a warp's sums stay in registers, and its products on tensor cores are independent of one
// another and hide the latency in place of other warps.
template <int P>
__global__ void __launch_bounds__(kFusedThreads, kFusedBlocks<P>)
    field_fused_kernel(FieldArgs<float> args, FusedPlan plan, float* partial, bool wide, int64_t first_block) {
  using Tile = FusedTile<P>;
  const Tile tile(plan.rows_per_block());
  const FieldShape& shape = args.shape;
  const int dim = static_cast<int>(shape.dim);
  const FieldBlock block(plan, shape, first_block + blockIdx.x);
  const int row0 = threadIdx.x / 32 % plan.row_warps * 16;
  const int col_warp = threadIdx.x / 32 / plan.row_warps;
  const float beta = beta_of(args.bandwidth, block.batch);
  tile.load_rows(args.query + (block.batch * shape.rows + block.row0) * dim, block.rows, plan.rows_per_block(), dim,
                 wide);
  FusedSums<P> sums;
  for (int64_t j0 = block.col0; j0 < block.col1; j0 += Tile::kCols) {
    const int count = static_cast<int>(min(block.col1 - j0, int64_t(Tile::kCols)));
    const int64_t from = (block.batch * shape.cols + j0) * dim;
    __syncthreads();
    tile.load_columns(args.x + from, args.score + from, count, dim, beta, wide);
    __syncthreads();
    for (int col0 = 16 * col_warp; col0 < count; col0 += 16 * (kFusedWarps / plan.row_warps)) {
      add_pairs(sums, tile, row0, col0, count, dim, beta, args.self, block.row0 + row0 - j0);
    }
  }
  write_fused(sums, tile, args, plan, block, beta, partial);
}

// Calls f with the padded dimensions.
template <class F>
auto dispatch_fused(int64_t dim, F f) {
  if (dim <= 16) return f(std::integral_constant<int, 16>());
  if (dim <= 32) return f(std::integral_constant<int, 32>());
  if (dim <= 64) return f(std::integral_constant<int, 64>());
  return f(std::integral_constant<int, 128>());
}

inline bool is_fused(const FieldShape& shape) {
  constexpr int64_t kManyColumns = 1024;
  return shape.dim <= kFusedDims && (shape.dim > 16 || (shape.dim > 8 && shape.cols >= kManyColumns));
}

inline FusedPlan plan_fused(const FieldShape& shape) {
  return dispatch_fused(shape.dim, [&](auto p) { return plan_fused(shape, p()); });
}

inline int64_t fused_forward_bytes(const FieldShape& shape) {
  const int64_t splits = plan_fused(shape).splits;
  return splits > 1 ? splits * shape.batch * shape.rows * (shape.dim + 1) * int64_t(sizeof(float)) : 0;
}

inline void field_forward_fused(const FieldArgs<float>& args, float* scratch, void* stream) {
  const FieldShape& shape = args.shape;
  const FusedPlan plan = plan_fused(shape);
  const bool wide =
      is_aligned(args.query, shape.dim) && is_aligned(args.x, shape.dim) && is_aligned(args.score, shape.dim);
  float* partial = plan.splits > 1 ? scratch : nullptr;
  dispatch_fused(shape.dim, [&](auto p) {
    constexpr int P = decltype(p)::value;
    const size_t shared = FusedTile<P>::bytes(plan.rows_per_block());
    launch_blocks("field_forward", plan.blocks, [&](unsigned grid, int64_t first) {
      SVGDX_LAUNCH((field_fused_kernel<P>), grid, kFusedThreads, shared, stream, args, plan, partial, wide, first);
    });
  });
  if (partial == nullptr) return;
  const int64_t rows = shape.batch * shape.rows;
  finish_field(args,
               FieldSums<float>{partial,
                                partial + plan.splits * rows * shape.dim,
                                plan.splits,
                                plan.splits,
                                0,
                                0,
                                shape.batch,
                                shape.rows,
                                {}},
               stream);
}

}  // namespace svgdx::cuda
