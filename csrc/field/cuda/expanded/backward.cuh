// The backward pass in float32 for dim > 64, by products on tensor cores. A pair's five sums (pair::Sums) follow from
// four products, those of (X, G) of its two particles with (X, s) of the two:
//   |r|^2 = |X_i|^2 + |X_j|^2 - 2 X_i.X_j,   r.s_j = X_i.s_j - X_j.s_j,   r.s_i = X_i.s_i - X_j.s_i,
//   g_s = G_i.s_j + G_j.s_i,   g_r = X_i.G_i + X_j.G_j - G_i.X_j - G_j.X_i.
// If rows and columns are the same particles, the products for (i, j) serve (j, i) as well. Weights and products with
// the columns follow; pairs whose sums cancel leave the products, see grad_weights.cuh.
#pragma once

#include "field/cuda/expanded/grad_products.cuh"
#include "field/cuda/large_plan.cuh"

namespace svgdx::cuda {

// Pairs are taken in blocks of equal numbers of rows and columns for some batch entries.
struct ExpandedGradPlan {
  int64_t batches, rows, cols;  // per block; the last one in each direction may be smaller
  int64_t padded_rows, padded_cols;
  int64_t dim_splits, dims_per_split;
  int64_t parts, cols_per_part;  // of the products with columns

  int64_t matrix() const { return batches * padded_rows * padded_cols; }
  PairBlock block(const FieldShape& shape, int64_t batch0, int64_t row0, int64_t col0) const {
    PairBlock block{};
    block.batch0 = batch0;
    block.batches = std::min(batches, shape.batch - batch0);
    block.row0 = row0;
    block.rows = std::min(rows, shape.rows - row0);
    block.col0 = col0;
    block.cols = std::min(cols, shape.cols - col0);
    block.padded_rows = padded_rows;
    block.padded_cols = padded_cols;
    block.dim_splits = dim_splits;
    block.dims_per_split = dims_per_split;
    block.by_batches = Divider(block.batches);
    return block;
  }
};

inline ExpandedGradPlan plan_expanded_grad(const FieldShape& shape) {
  ExpandedGradPlan plan{};
  int64_t most = kExpandedTile;
  while ((most + kExpandedTile) * (most + kExpandedTile) <= kPairElements) most += kExpandedTile;
  plan.padded_rows = round_up(ceil_div(shape.rows, ceil_div(shape.rows, most)), kExpandedTile);
  plan.padded_cols = round_up(ceil_div(shape.cols, ceil_div(shape.cols, most)), kExpandedTile);
  plan.rows = std::min(shape.rows, plan.padded_rows);
  plan.cols = std::min(shape.cols, plan.padded_cols);
  plan.batches = std::min(shape.batch, std::max<int64_t>(1, kPairElements / (plan.padded_rows * plan.padded_cols)));

  // With few tiles, split the dimensions of the pairs' products and the columns of the others.
  const int64_t row_tiles = plan.padded_rows / kExpandedTile;
  const int64_t pair_blocks = 2 * plan.batches * row_tiles * (plan.padded_cols / kExpandedTile);
  constexpr int64_t kMostSplits = 16;
  const int64_t splits =
      std::max<int64_t>(1, std::min({kMostSplits, kPairBlocks / pair_blocks, shape.dim / kExpandedTile}));
  plan.dims_per_split = round_up(ceil_div(shape.dim, splits), kExpandedChunk);
  plan.dim_splits = ceil_div(shape.dim, plan.dims_per_split);
  const int64_t blocks = plan.batches * row_tiles * ceil_div(shape.dim, kExpandedTile);
  const int64_t parts = std::max<int64_t>(1, std::min(kTargetBlocks / blocks, plan.cols / 128));
  plan.cols_per_part = round_up(ceil_div(plan.padded_cols, parts), kExpandedTile);
  plan.parts = ceil_div(plan.padded_cols, plan.cols_per_part);
  return plan;
}

// Products of (X, G) of the rows with (X, s) of the columns are needed for r.s_j and G_i; those of the columns with the
// rows, transposed, for r.s_i and G_j. Blocks of the same particles are their own transposes.
inline bool needs_direct(const FieldGradArgs<float>& args) {
  return args.col_score != nullptr || args.row_score == nullptr;
}
inline bool needs_transposed(const FieldGradArgs<float>& args) { return args.row_score != nullptr; }

// Scratch of a backward pass.
struct ExpandedGradMemory {
  PairPlanes direct, transposed;
  GradExpansion expansion;
  float* scalars;  // (RowScalars::kCount, batches, rows)
  float* vectors;  // (parts, 2, batches, rows, dim)
};

// Places it, or counts its elements.
inline int64_t place_expanded_grad(ExpandedGradMemory& memory, const FieldGradArgs<float>& args,
                                   const ExpandedGradPlan& plan, float* from) {
  const FieldShape& shape = args.shape;
  ScratchPlaces places{from};
  const int64_t parts = plan.dim_splits * plan.batches;
  const auto planes = [&](int64_t rows, int64_t cols) {
    PairPlanes planes;
    planes.sums = places.take(plan.dim_splits * PairPlanes::kSums * plan.matrix());
    planes.norms = {places.take(parts * rows), places.take(parts * rows), places.take(parts * cols),
                    places.take(parts * cols)};
    return planes;
  };
  const bool is_one_block = args.self && plan.rows == shape.rows;
  if (needs_direct(args)) memory.direct = planes(plan.padded_rows, plan.padded_cols);
  if (needs_transposed(args) && !is_one_block) memory.transposed = planes(plan.padded_cols, plan.padded_rows);
  const int64_t rows = plan.batches * std::max(plan.padded_rows, plan.padded_cols);
  memory.expansion.kappa = places.take(plan.matrix());
  memory.expansion.lean = places.take(plan.matrix());
  memory.expansion.row_sums = places.take(2 * rows);
  memory.expansion.has_redone = reinterpret_cast<int*>(places.take(rows));
  memory.expansion.redone = places.take(2 * rows * shape.dim);
  memory.scalars = places.take(RowScalars<float>::kCount * plan.batches * shape.rows);
  memory.vectors = places.take(plan.parts * 2 * plan.batches * shape.rows * shape.dim);
  return places.used;
}

inline int64_t expanded_backward_bytes(const FieldGradArgs<float>& args) {
  ExpandedGradMemory unplaced{};
  return place_expanded_grad(unplaced, args, plan_expanded_grad(args.shape), nullptr) * int64_t(sizeof(float));
}

// The launches of a backward pass.
struct ExpandedBackward {
  static constexpr const char* kOp = "field_backward";
  const FieldGradArgs<float>& args;
  const ExpandedGradPlan plan;
  const bool wide;
  void* const stream;
  ExpandedGradMemory memory{};

  ExpandedBackward(const FieldGradArgs<float>& args, bool wide, float* scratch, void* stream)
      : args(args), plan(plan_expanded_grad(args.shape)), wide(wide), stream(stream) {
    place_expanded_grad(memory, args, plan, scratch);
  }
  int64_t centre_at() const { return args.shape.cols * args.shape.dim; }

  // Rows or columns of the pairs.
  struct Side {
    const float *x, *score, *grad_phi;
    int64_t count;
  };
  // Products of (X, G) of one side with (X, s) of the other.
  void multiply(const Side& grads, const Side& scores, const PairPlanes& planes, const PairBlock& block) const {
    const PairProductInputs in{args.format, args.tf32,      {grads.x, grads.grad_phi},
                               scores.x,    scores.score,   args.col_x,
                               grads.count, scores.count,   args.shape.dim,
                               centre_at(), args.bandwidth, planes.norms,
                               wide};
    pair_products<2>(kOp, in, block, planes.sums, stream);
  }
  static PairBlock swapped(PairBlock block) {
    std::swap(block.row0, block.col0);
    std::swap(block.rows, block.cols);
    std::swap(block.padded_rows, block.padded_cols);
    return block;
  }
  // Adds the block's pairs to the sums of its rows.
  void gather(const PairBlock& block, const PairPlanes& direct, const PairPlanes& transposed) const {
    const bool first = block.col0 == 0;
    expanded_weights(kOp, {args, direct, transposed, first}, block, memory.expansion, memory.scalars, stream);
    GradProductInputs in{};
    in.args = args;
    in.expansion = memory.expansion;
    in.centre = args.col_x;
    in.centre_at = centre_at();
    in.wide = wide;
    in.first = first;
    in.grid = {plan.parts, plan.cols_per_part, {}, {}, {}};
    grad_products(kOp, in, block, memory.vectors, stream);
  }
  void take(const PairBlock& block) const {
    const Side rows{args.row_x, args.row_score, args.row_grad_phi, args.shape.rows};
    const Side cols{args.col_x, args.col_score, args.col_grad_phi, args.shape.cols};
    if (needs_direct(args)) multiply(rows, cols, memory.direct, block);
    if (args.self && block.row0 == block.col0) return gather(block, memory.direct, memory.direct);
    if (needs_transposed(args)) multiply(cols, rows, memory.transposed, swapped(block));
    gather(block, memory.direct, memory.transposed);
    if (args.self) gather(swapped(block), memory.transposed, memory.direct);
  }
  void run() const {
    const FieldShape& shape = args.shape;
    for (int64_t b = 0; b < shape.batch; b += plan.batches) {
      for (int64_t row = 0; row < shape.rows; row += plan.rows) {
        for (int64_t col = args.self ? row : 0; col < shape.cols; col += plan.cols) {
          take(plan.block(shape, b, row, col));
        }
      }
      const int64_t batches = std::min(plan.batches, shape.batch - b);
      finish_field_backward(
          args, FieldGradSums<float>{memory.vectors, memory.scalars, plan.parts, 1, b, 0, batches, shape.rows, {}},
          stream);
    }
  }
};

}  // namespace svgdx::cuda
