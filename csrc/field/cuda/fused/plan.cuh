// Divides rows and columns among blocks and warps for the fused kernel. Depends on shapes only, so that results do.
#pragma once

#include "field/cuda/plan.cuh"

namespace svgdx::cuda {

constexpr int kFusedThreads = 128;
constexpr int kFusedWarps = kFusedThreads / 32;
constexpr int64_t kFusedDims = 128;

struct FusedPlan {
  int warp_rows;      // rows of a warp: 16, or 32
  int row_warps;      // warps with rows of their own; the others share the columns of a tile
  int64_t row_tiles;  // blocks that cover the rows of a batch entry
  int64_t splits;     // parts of the columns, each handled by a separate block
  int64_t cols_per_split;
  int64_t blocks;  // batch * row_tiles * splits
  Divider by_splits, by_row_tiles;

  SVGDX_HD int rows_per_block() const { return warp_rows * row_warps; }
};

// Columns of a tile.
constexpr SVGDX_HD int fused_cols(int padded_dim) { return padded_dim <= 64 ? 64 : 32; }

inline FusedPlan plan_fused(const FieldShape& shape, int padded_dim) {
  constexpr int64_t kLeastColumns = 128;  // of a part
  const int cols = fused_cols(padded_dim);
  FusedPlan plan{};
  const int64_t most_splits = std::max<int64_t>(1, shape.cols / kLeastColumns);
  // Four warps with rows of their own read each column once for 64 or 128 rows; with few rows, that would leave
  // multiprocessors idle, and the warps share the columns instead.
  const auto fills = [&](int warp_rows) {
    const int64_t row_tiles = ceil_div(shape.rows, kFusedWarps * warp_rows);
    return shape.rows > warp_rows && shape.batch * row_tiles * most_splits >= kTargetBlocks / 4;
  };
  const bool wide = fills(16);
  plan.warp_rows = padded_dim <= 16 && fills(32) ? 32 : 16;
  plan.row_warps = wide ? kFusedWarps : kFusedWarps / (cols / 16);
  plan.row_tiles = ceil_div(shape.rows, plan.rows_per_block());
  const int64_t splits = std::min(most_splits, std::max<int64_t>(1, kTargetBlocks / (shape.batch * plan.row_tiles)));
  plan.cols_per_split = round_up(ceil_div(shape.cols, splits), cols);
  plan.splits = ceil_div(shape.cols, plan.cols_per_split);
  plan.blocks = shape.batch * plan.row_tiles * plan.splits;
  plan.by_splits = Divider(plan.splits);
  plan.by_row_tiles = Divider(plan.row_tiles);
  return plan;
}

}  // namespace svgdx::cuda
