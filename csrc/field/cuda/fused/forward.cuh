// phi, trace and stein in one launch for 16 < dim <= 128, and for dim > 8 with many columns, in float32: a block holds
// 16 to 128 rows, columns pass through shared memory in tiles, and tensor cores form the dot products of rows with
// columns and the products of kernel values with columns. Kernel values never leave registers. Up to 32 dimensions the
// kernel is that of narrow.cuh.
#pragma once

#include "field/cuda/fused/narrow.cuh"
#include "field/cuda/fused/pairs.cuh"
#include "field/cuda/fused/write.cuh"

namespace svgdx::cuda {

// Resident blocks requested from the compiler.
template <int P>
constexpr int kFusedBlocks = P <= 64 ? 3 : 2;

// Occupancy is below one half: a warp's sums stay in registers, and its products on tensor cores are independent of one
// another and hide the latency in place of other warps.
template <int P, int Parts>
__global__ void __launch_bounds__(kFusedThreads, kFusedBlocks<P>)
    field_fused_kernel(FieldArgs<float> args, FusedPlan plan, float* partial, bool wide, int64_t first_block) {
  using Tile = FusedTile<P>;
  const Tile tile(plan.rows_per_block());
  const FieldShape& shape = args.shape;
  const int dim = static_cast<int>(shape.dim);
  const FieldBlock block(plan, shape, first_block + blockIdx.x);
  const int row0 = plan.row0();
  const float beta = beta_of(args.bandwidth, block.batch);
  tile.load_rows(stored(args, args.query) + (block.batch * shape.rows + block.row0) * dim, block.rows,
                 plan.rows_per_block(), dim, wide);
  FusedSums<P> sums;
  for (int64_t j0 = block.col0; j0 < block.col1; j0 += Tile::kCols) {
    const int count = static_cast<int>(min(block.col1 - j0, int64_t(Tile::kCols)));
    const int64_t from = (block.batch * shape.cols + j0) * dim;
    __syncthreads();
    tile.load_columns(stored(args, args.x) + from, stored(args, args.score) + from, count, dim, beta, wide);
    __syncthreads();
    for (int col0 = 16 * plan.col_warp(); col0 < count; col0 += 16 * plan.col_warps()) {
      add_pairs<Parts>(sums, tile, row0, col0, count, dim, beta, args.self, block.row0 + row0 - j0);
    }
  }
  __syncthreads();
  // z lies over both arrays of columns.
  const WarpSums warps{tile.x, tile.stage, tile.stage + kFusedWarps * 16, tile.rows, Tile::kStride};
  warps.store<P>(threadIdx.x / 32 * 16, [&](int n, int e) { return sums.z[n][e]; }, sums.trace, sums.kappa);
  __syncthreads();
  write_rows(warps, args, plan, block, beta, partial);
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
  const bool wide = all_aligned(shape.dim, args.query, args.x, args.score);
  float* partial = plan.splits > 1 ? scratch : nullptr;
  launch_blocks("field_forward", plan.blocks, [&](unsigned grid, int64_t first) {
    dispatch_fused(shape.dim, [&](auto p) {
      dispatch_parts(args.tf32, [&](auto parts) {
        constexpr int P = decltype(p)::value;
        constexpr int Parts = decltype(parts)::value;
        if constexpr (P <= 32) {
          const size_t shared = NarrowTile<P>::bytes(plan.warp_rows);
          if constexpr (P == 16) {
            if (plan.warp_rows == 32) {
              SVGDX_LAUNCH((field_narrow_kernel<P, 2, Parts>), grid, kFusedThreads, shared, stream, args, plan, partial,
                           wide, first);
              return;
            }
          }
          SVGDX_LAUNCH((field_narrow_kernel<P, 1, Parts>), grid, kFusedThreads, shared, stream, args, plan, partial,
                       wide, first);
        } else {
          const size_t shared = FusedTile<P>::bytes(plan.rows_per_block());
          SVGDX_LAUNCH((field_fused_kernel<P, Parts>), grid, kFusedThreads, shared, stream, args, plan, partial, wide,
                       first);
        }
      });
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
