// What the products of the expanded sums take: X = x - centre, Y = s - beta X, |X|^2 and X . s. The centre is the first
// particle of each batch entry.
#pragma once

#include "common/cuda/columns.cuh"
#include "field/args.h"

namespace svgdx::cuda {

// Rows and columns of the batch entries of a block of pairs, all in scratch; rows are the columns if they are the same
// particles.
struct Expansion {
  float* row;         // X (batches, rows, dim)
  float* col;         // X (batches, cols, dim)
  float* col_y;       // Y (batches, cols, dim)
  float* row_norm;    // (batches, rows)
  float* col_norm;    // (batches, cols)
  float* col_weight;  // X . s (batches, cols)
  float* kappa;       // sum of the kernel values of a row (batches, rows)
  int* has_redone;    // (batches, rows): whether a row has pairs whose expanded sums cancel
  float* redone;      // what these pairs add to the row's sum over columns, by differences (batches, rows, dim)
};

// One of the two: `score` and `y` are null for rows.
struct ExpandInputs {
  const float* x;       // (batches, count, dim)
  const float* score;   // the same shape
  const float* centre;  // the first of `cols` particles of each batch entry
  float* out;
  float* y;
  float* norm;
  float* weight;
  int64_t batches, count, cols, dim, batch0;
  PerBatch<float> bandwidth;
  Divider by_count;
};

// A group of lanes per row, which take packs of its dimensions in turn.
static __global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    expand_kernel(ExpandInputs in, ColumnPlan plan, int64_t first_block) {
  constexpr float kMost = 1e30f;  // of a summand, so that no product overflows
  SVGDX_SHARED(float, shares, kRowWarps);
  const RowGroup group(plan.rows);
  const int64_t index = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const bool active = index < in.batches * in.count;
  int64_t batch = active ? index : 0;
  in.by_count.split(batch);
  const float beta = beta_of(in.bandwidth, in.batch0 + batch);
  float norm = 0;
  float weight = 0;
  SVGDX_UNROLL_BY(1)
  for (int64_t chunk = 0; active && chunk < plan.chunks; ++chunk) {
    const Columns<float> columns(plan, group.lane, chunk);
    WidePack<float> x = columns.load(in.x + index * in.dim);
    const WidePack<float> centre = columns.load(in.centre + batch * in.cols * in.dim);
    WidePack<float> score{};
    if (in.score != nullptr) score = columns.load(in.score + index * in.dim);
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<float>; ++w) {
      x.v[w] -= centre.v[w];
      // NaN if a number is too large for the products; then no pair of this particle takes part in them.
      const bool fits = fabsf(score.v[w]) + beta * fabsf(x.v[w]) < kMost;
      norm += fits ? x.v[w] * x.v[w] : not_a_number<float>();
      weight += x.v[w] * score.v[w];
      score.v[w] = fits ? score.v[w] - beta * x.v[w] : 0.0f;
    }
    columns.store(in.out + index * in.dim, x);
    if (in.y != nullptr) columns.store(in.y + index * in.dim, score);
  }
  norm = group.combine(norm, Sum<float>(), shares);
  weight = group.combine(weight, Sum<float>(), shares);
  if (!active || group.lane != 0) return;
  in.norm[index] = norm;
  if (in.y == nullptr) return;
  in.weight[index] = weight;
}

inline void expand(const char* op, ExpandInputs in, void* stream) {
  in.by_count = Divider(in.count);
  const ColumnPlan plan = plan_rows<float>(in.dim, in.x, in.score, in.centre, in.out, in.y);
  launch_blocks(op, plan.row_blocks(in.batches * in.count), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((expand_kernel), grid, kRowThreads, 0, stream, in, plan, first);
  });
}

}  // namespace svgdx::cuda
