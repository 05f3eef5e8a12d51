// Divides rows and columns among blocks and lanes for the register kernels (small dimensions). Depends on shapes only,
// so that the results do.
#pragma once

#include "common/cuda/divider.cuh"
#include "common/cuda/launch.cuh"
#include "field/args.h"

namespace svgdx::cuda {

struct FieldPlan {
  int threads;        // per block; also columns per tile
  int lanes;          // neighbouring threads that share a row, a power of two up to a warp
  int64_t row_tiles;  // blocks that cover the rows of a batch entry
  int64_t splits;     // parts of the columns, each handled by a separate block
  int64_t cols_per_split;
  int64_t blocks;  // batch * row_tiles * splits
  Divider by_splits, by_row_tiles;

  SVGDX_HD int rows_per_block() const { return threads / lanes; }
};

inline FieldPlan plan_field(const FieldShape& shape, int threads) {
  FieldPlan plan{};
  plan.threads = threads;
  auto row_blocks = [&](int64_t lanes) { return ceil_div(shape.rows, threads / lanes); };
  int64_t lanes = 1;
  // Use more lanes per row if threads would idle: too few rows for a block, or too few blocks for the device.
  while (lanes < 32 && lanes < shape.cols &&
         (shape.rows * lanes * 2 <= threads || shape.batch * row_blocks(lanes) < kTargetBlocks)) {
    lanes *= 2;
  }
  plan.lanes = static_cast<int>(lanes);
  plan.row_tiles = row_blocks(lanes);
  constexpr int64_t kLeastColumns = 2048;
  const int64_t blocks = std::max<int64_t>(1, shape.batch * plan.row_tiles);
  const int64_t splits = std::min(kTargetBlocks / blocks, shape.cols / kLeastColumns);
  plan.cols_per_split = ceil_div(shape.cols, std::max<int64_t>(1, splits));
  plan.cols_per_split = std::max<int64_t>(threads, round_up(plan.cols_per_split, threads));
  plan.splits = ceil_div(shape.cols, plan.cols_per_split);
  plan.blocks = blocks * plan.splits;
  plan.by_splits = Divider(plan.splits);
  plan.by_row_tiles = Divider(plan.row_tiles);
  return plan;
}

// The part of a plan, a FieldPlan or a FusedPlan, that one block handles.
struct FieldBlock {
  int64_t batch, row0, split, col0, col1;
  int rows;

  template <class Plan>
  __device__ FieldBlock(const Plan& plan, const FieldShape& shape, int64_t index) {
    split = plan.by_splits.split(index);
    row0 = plan.by_row_tiles.split(index) * plan.rows_per_block();
    batch = index;
    const int64_t left = shape.rows - row0;
    rows = left < plan.rows_per_block() ? static_cast<int>(left) : plan.rows_per_block();
    col0 = split * plan.cols_per_split;
    col1 = col0 + plan.cols_per_split < shape.cols ? col0 + plan.cols_per_split : shape.cols;
  }
};

// Calls f with the padded dimension as a constant.
template <int P>
struct Dims {
  static constexpr int kValue = P;
};

template <class F>
void dispatch_dims(int64_t dim, F f) {
  if (dim <= 2) return f(Dims<2>{});
  if (dim <= 4) return f(Dims<4>{});
  if (dim <= 8) return f(Dims<8>{});
  return f(Dims<16>{});
}

}  // namespace svgdx::cuda
