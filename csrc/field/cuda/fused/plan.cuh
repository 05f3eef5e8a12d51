// Divides rows and columns among blocks and warps for the fused kernels. Depends on shapes only, so that results do.
#pragma once

#include <type_traits>

#include "field/cuda/plan.cuh"

namespace svgdx::cuda {

constexpr int kFusedThreads = 128;
constexpr int kFusedWarps = kFusedThreads / 32;
constexpr int kFusedDims = 128;

struct FusedPlan {
  int warp_rows;      // rows of a warp: 16, or 32
  int row_warps;      // warps with rows of their own; the others share the columns of a tile
  int64_t row_tiles;  // blocks that cover the rows of a batch entry
  int64_t splits;     // parts of the columns, each handled by a separate block
  int64_t cols_per_split;
  int64_t blocks;  // batch * row_tiles * splits
  Divider by_splits, by_row_tiles;

  SVGDX_HD int rows_per_block() const { return warp_rows * row_warps; }
  // The first row of this thread's warp, and which of the warps with the same rows it is.
  __device__ int row0() const { return int(threadIdx.x) / 32 % row_warps * warp_rows; }
  __device__ int col_warp() const { return int(threadIdx.x) / 32 / row_warps; }
  __device__ int col_warps() const { return kFusedWarps / row_warps; }
};

inline bool is_fused(const FieldShape& shape) {
  constexpr int64_t kManyColumns = 1024;
  return shape.dim <= kFusedDims && (shape.dim > 16 || (shape.dim > 8 && shape.cols >= kManyColumns));
}

// Calls f with the padded dimensions, at most kMost.
template <int kMost = kFusedDims, class F>
auto dispatch_fused(int64_t dim, F f) {
  if (dim <= 16) return f(std::integral_constant<int, 16>());
  if (dim <= 32) return f(std::integral_constant<int, 32>());
  if constexpr (kMost > 64) {
    if (dim > 64) return f(std::integral_constant<int, 128>());
  }
  return f(std::integral_constant<int, 64>());
}

// Columns of a tile.
constexpr SVGDX_HD int fused_cols(int padded_dim) { return padded_dim <= 64 ? 64 : 32; }

// Parts of the columns, if a block for each is to have enough of them.
inline int64_t most_splits(const FieldShape& shape) {
  constexpr int64_t kLeastColumns = 128;  // of a part
  return std::max<int64_t>(1, shape.cols / kLeastColumns);
}

// Whether blocks of that many rows, with the columns in parts, keep the multiprocessors busy.
inline bool fills_machine(const FieldShape& shape, int rows_per_block) {
  return shape.batch * ceil_div(shape.rows, rows_per_block) * most_splits(shape) >= kTargetBlocks / 4;
}

// Divides the columns, in whole tiles, among as many blocks as keep the multiprocessors busy.
inline FusedPlan divide_columns(FusedPlan plan, const FieldShape& shape, int tile_cols) {
  plan.row_tiles = ceil_div(shape.rows, plan.rows_per_block());
  const int64_t splits =
      std::min(most_splits(shape), std::max<int64_t>(1, kTargetBlocks / (shape.batch * plan.row_tiles)));
  plan.cols_per_split = round_up(ceil_div(shape.cols, splits), tile_cols);
  plan.splits = ceil_div(shape.cols, plan.cols_per_split);
  plan.blocks = shape.batch * plan.row_tiles * plan.splits;
  plan.by_splits = Divider(plan.splits);
  plan.by_row_tiles = Divider(plan.row_tiles);
  return plan;
}

inline FusedPlan plan_fused(const FieldShape& shape, int padded_dim) {
  const int cols = fused_cols(padded_dim);
  FusedPlan plan{};
  // Four warps with rows of their own read each column once for 64 or 128 rows; with few rows, that would leave
  // multiprocessors idle, and the warps share the columns instead.
  const auto fills = [&](int warp_rows) {
    return shape.rows > warp_rows && fills_machine(shape, kFusedWarps * warp_rows);
  };
  plan.warp_rows = padded_dim <= 16 && fills(32) ? 32 : 16;
  plan.row_warps = fills(16) ? kFusedWarps : kFusedWarps / (cols / 16);
  return divide_columns(plan, shape, cols);
}

}  // namespace svgdx::cuda
