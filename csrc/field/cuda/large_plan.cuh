// Divides the pairs into blocks of rows, columns and batch entries for large dimensions. Depends on shapes only.
#pragma once

#include "field/cuda/pairs.cuh"

namespace svgdx::cuda {

// Rounds up the elements of a part of scratch so that the next part is 16-byte aligned.
inline int64_t aligned_elements(int64_t count) { return round_up(count, 4); }

// Places arrays one after another in scratch, or only counts their elements if there is none.
struct ScratchPlaces {
  float* scratch;
  int64_t used = 0;
  float* take(int64_t count) {
    float* place = scratch == nullptr ? nullptr : scratch + used;
    used += aligned_elements(count);
    return place;
  }
};

// Blocks that sums of pairs are divided into: two or three waves. More would only add to what the next pass reads.
constexpr int64_t kPairBlocks = kTargetBlocks * 3 / 4;

struct LargePlan {
  int64_t batches, rows, cols;  // per block; the last block in each direction may be smaller
  int64_t padded_rows, padded_cols;
  int64_t dim_splits, dims_per_split;
  int64_t parts, cols_per_part;  // of the product
  int sums, outs;

  int64_t pair_elements() const { return dim_splits * sums * batches * padded_rows * padded_cols; }
};

inline LargePlan plan_large(const FieldShape& shape, int sums, int outs) {
  LargePlan plan{};
  plan.sums = sums;
  plan.outs = outs;
  plan.cols = std::min(shape.cols, kMostCols);
  plan.padded_cols = round_up(plan.cols, kPairCols);
  const int64_t row_budget = std::max(kProductRows, kPairElements / plan.padded_cols / kProductRows * kProductRows);
  plan.rows = std::min(shape.rows, row_budget);
  plan.padded_rows = round_up(plan.rows, kProductRows);
  plan.batches = std::min(shape.batch, std::max<int64_t>(1, kPairElements / (plan.padded_rows * plan.padded_cols)));

  // With few tiles, split the dimensions of the pair sums and the columns of the product.
  const int64_t pair_blocks = plan.batches * ceil_div(plan.rows, kPairCols) * (plan.padded_cols / kPairCols);
  int64_t splits = std::min(kPairBlocks / pair_blocks, shape.dim / 64);
  splits = std::max<int64_t>(1, splits);
  plan.dims_per_split = round_up(ceil_div(shape.dim, splits), 16);
  plan.dim_splits = ceil_div(shape.dim, plan.dims_per_split);

  const int64_t product_blocks = plan.batches * (plan.padded_rows / kProductRows) * ceil_div(shape.dim, kProductDims);
  const int64_t parts = std::max<int64_t>(1, std::min(kTargetBlocks / product_blocks, plan.cols / 128));
  plan.cols_per_part = round_up(ceil_div(plan.padded_cols, parts), kPairCols);
  plan.parts = ceil_div(plan.padded_cols, plan.cols_per_part);
  return plan;
}

// Calls body(block, first_columns) for every block, columns innermost.
template <class Body>
void for_each_block(const FieldShape& shape, const LargePlan& plan, Body body) {
  for (int64_t b = 0; b < shape.batch; b += plan.batches) {
    for (int64_t row = 0; row < shape.rows; row += plan.rows) {
      for (int64_t col = 0; col < shape.cols; col += plan.cols) {
        PairBlock block{};
        block.batch0 = b;
        block.batches = std::min(plan.batches, shape.batch - b);
        block.row0 = row;
        block.rows = std::min(plan.rows, shape.rows - row);
        block.col0 = col;
        block.cols = std::min(plan.cols, shape.cols - col);
        block.padded_rows = plan.padded_rows;
        block.padded_cols = plan.padded_cols;
        block.dim_splits = plan.dim_splits;
        block.dims_per_split = plan.dims_per_split;
        block.by_rows = Divider(block.rows);
        block.by_batches = Divider(block.batches);
        body(block, col == 0, col + plan.cols >= shape.cols);
      }
    }
  }
}

}  // namespace svgdx::cuda
