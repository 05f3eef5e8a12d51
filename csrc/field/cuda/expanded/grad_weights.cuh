// The weights of pairs in the gradients from their expanded sums, or from differences for pairs whose sums cancel.
#pragma once

#include "field/cuda/backward_pair.cuh"
#include "field/cuda/expanded/product.cuh"
#include "field/cuda/fused/grad_tile.cuh"
#include "field/cuda/fused/pairs.cuh"

namespace svgdx::cuda {

// Sums of products of one side's (X, G) with the other's (X, s), see pair_products_kernel; null if not needed.
struct PairPlanes {
  static constexpr int kSums = 4;  // X . X, X . s, G . X, G . s
  float* sums;                     // (dim_splits, kSums, batches, padded rows, padded columns)
  PairNorms norms;
};

// What the passes over a block of pairs hand on, in scratch. Row numbers are those of the block.
struct GradExpansion {
  float* kappa;     // (batches, padded rows, padded columns): kernel values, 0 for pairs by differences
  float* lean;      // the same: weights of -X_j in `both` (field/cuda/fused/grad_pairs.cuh)
  float* row_sums;  // (2, batches, padded rows): sums of lean_ij and of kappa_ij h_j
  int* has_redone;  // (batches, padded rows): whether a row has pairs by differences
  float* redone;    // (2, batches, padded rows, dim): what these add to the row's sums `both` and `score`
};

// Columns and rows of a pass of a block: a sector of each row of planes whose rows are the columns of the pairs.
constexpr int kWeightThreads = 256;
constexpr int kWeightRows = 8;
constexpr int kWeightCols = 128;
constexpr int kWeightLanes = kWeightThreads / kWeightRows;  // of a row
constexpr int kWeightStride = kWeightCols + 4;              // packs of two rows that a warp reads do not conflict

struct GradWeightInputs {
  FieldGradArgs<float> args;
  PairPlanes direct;      // (X, G) of the rows with (X, s) of the columns
  PairPlanes transposed;  // (X, G) of the columns with (X, s) of the rows, a row for each column
  bool first;             // write the rows' sums instead of adding to them
};

// Adds four neighbouring numbers.
__device__ inline void add_four(Pack<float, 4>& sum, const float* from) {
  const Pack<float, 4> more = load_four(from);
  SVGDX_UNROLL
  for (int w = 0; w < 4; ++w) sum.v[w] += more.v[w];
}

// The sum over the splits of the dimensions of a norm: every `step`-th one from `first` on.
__device__ inline float add_norms(const PairBlock& block, const float* norms, int64_t padded, int64_t batch, int64_t at,
                                  int first, int step) {
  float total = 0;
  for (int64_t split = first; split < block.dim_splits; split += step) {
    total += norms[PairNorms::part(block, split, batch, padded) + at];
  }
  return total;
}

// A particle's |X|^2, X . s and X . G, as far as they are needed. NaN if its pairs need differences.
struct GradNorms {
  float norm, x_score, x_grad;

  // From planes in which it is a row, and from planes in which it is a column.
  __device__ GradNorms(const PairBlock& block, const PairPlanes& as_row, int64_t row_padded, const PairPlanes& as_col,
                       int64_t col_padded, int64_t batch, int64_t at, int first, int step)
      : norm(0), x_score(0), x_grad(0) {
    if (as_row.sums != nullptr) {
      norm = add_norms(block, as_row.norms.row_norm, row_padded, batch, at, first, step);
      x_grad = add_norms(block, as_row.norms.row_grad, row_padded, batch, at, first, step);
    }
    if (as_col.sums == nullptr) return;
    norm = add_norms(block, as_col.norms.col_norm, col_padded, batch, at, first, step);
    x_score = add_norms(block, as_col.norms.col_weight, col_padded, batch, at, first, step);
  }
};

// Shared memory of a pass.
struct WeightTile {
  float* sums;   // (4, rows, kWeightStride): sums from transposed planes, then weights by differences
  float* norms;  // (3, columns)
  float* h;      // (columns)
  int* redone;   // (rows, columns): whether the pair's sums cancel

  __device__ float* sum(int s, int row) const { return sums + (s * kWeightRows + row) * kWeightStride; }
};

// Where the block's pairs are: row and column `at` zero in global memory, and the rows and columns that there are.
struct WeightPlace {
  GradParticles rows, cols;
  int64_t self;  // the column that is row 0; a negative number beyond all rows if there is none
  int dim;
  float beta, sign;

  __device__ float h(const GradParticles& of, int64_t at) const {
    return of.grad_trace == nullptr ? 0.0f : sign * of.grad_trace[at];
  }
};

// A warp for each row: pairs of its columns [j0, j0 + kWeightCols) by differences. Adds to the row's scalars and to its
// sums over columns, `both` and `score`.
__device__ inline void redo_pairs(const WeightTile& tile, const WeightPlace& place, int64_t j0, RowScalars<float>& sums,
                                  int row, bool adds, float* both_out, float* score_out) {
  const int lane = threadIdx.x % 32;
  const int64_t i = int64_t(row) * place.dim;
  const float h_i = place.h(place.rows, row);
  float* kappas = tile.sum(0, row);
  float* leans = tile.sum(1, row);
  for (int c = 0; c < kWeightCols; ++c) {
    if (!tile.redone[row * kWeightCols + c]) continue;
    const int64_t j = (j0 + c) * place.dim;
    float sum[5] = {};
    SVGDX_UNROLL_BY(2)
    for (int d = lane; d < place.dim; d += 32) {
      const float of_row[3] = {place.rows.x[i + d], GradParticles::read(place.rows.score, i + d),
                               GradParticles::read(place.rows.grad_phi, i + d)};
      const float of_col[3] = {place.cols.x[j + d], GradParticles::read(place.cols.score, j + d),
                               GradParticles::read(place.cols.grad_phi, j + d)};
      BackwardPairs::add(sum, of_row, of_col);
    }
    SVGDX_UNROLL
    for (int s = 0; s < 5; ++s) sum[s] = lane_sum(sum[s], 1, 32);
    const float h_j = tile.h[c];
    const PairWeights<float> weights(sum, place.beta, static_cast<float>(place.dim), h_i, h_j, false);
    if (lane != 0) continue;
    weights.add_to(sums, h_j);
    kappas[c] = weights.kappa;
    leans[c] = weights.radial - weights.kappa_beta * h_j;
  }
  __syncwarp();
  for (int d = lane; d < place.dim; d += 32) {
    float both = adds ? both_out[d] : 0.0f;
    float score = adds ? score_out[d] : 0.0f;
    for (int c = 0; c < kWeightCols; ++c) {
      if (!tile.redone[row * kWeightCols + c] || kappas[c] == 0) continue;  // other factors may overflow
      const int64_t at = (j0 + c) * place.dim + d;
      const float r = place.rows.x[i + d] - place.cols.x[at];
      both -= kappas[c] * h_i * GradParticles::read(place.cols.score, at) + leans[c] * r;
      score += kappas[c] * GradParticles::read(place.cols.grad_phi, at) + kappas[c] * place.beta * tile.h[c] * r;
    }
    both_out[d] = both;
    score_out[d] = score;
  }
}

// Kernel values and weights of the pairs of eight rows, and the rows' scalar sums: `scalars` is (RowScalars::kCount,
// batches, rows). A particle's weights with itself are 0, those of a pair by differences as well: its share of the sums
// over columns goes to `to.redone`.
// Occupancy is below one half: a thread's packs stay in registers.
static __global__ void __launch_bounds__(kWeightThreads, 2)
    expanded_grad_weights(GradWeightInputs in, PairBlock block, GradExpansion to, float* scalars, int64_t first_block) {
  SVGDX_SHARED_PACKS(float, shared_sums, 4 * kWeightRows * kWeightStride);
  SVGDX_SHARED_PACKS(float, shared_norms, 3 * kWeightCols);
  SVGDX_SHARED_PACKS(float, shared_h, kWeightCols);
  SVGDX_SHARED_PACKS(int, shared_redone, kWeightRows* kWeightCols);
  SVGDX_SHARED(float, redone_scalars, kWeightRows, RowScalars<float>::kCount);
  const WeightTile tile{shared_sums, shared_norms, shared_h, shared_redone};
  const FieldGradArgs<float>& args = in.args;
  int64_t batch = first_block + blockIdx.x;
  const int64_t row0 = block.by_row_tiles.split(batch) * kWeightRows;
  if (row0 >= block.rows) return;
  const int64_t b = block.batch0 + batch;
  const int dim = static_cast<int>(args.shape.dim);
  const int64_t first_row = b * args.shape.rows + block.row0 + row0;
  const int64_t first_col = b * args.shape.cols + block.col0;
  const int count = static_cast<int>(min(block.rows - row0, int64_t(kWeightRows)));
  const WeightPlace place{GradParticles::rows(args, first_row, count),
                          GradParticles::cols(args, first_col, 0),
                          args.self ? block.row0 + row0 - block.col0 : -2 * block.padded_cols - kWeightRows,
                          dim,
                          beta_of(args.bandwidth, b),
                          trace_sign(args)};
  const int row = threadIdx.x / kWeightLanes;
  const int lane = threadIdx.x % kWeightLanes;
  const float h_i = row < count ? place.h(place.rows, row) : 0.0f;
  const bool is_direct = in.direct.sums != nullptr;
  const bool is_transposed = in.transposed.sums != nullptr;
  GradNorms own(block, in.direct, block.padded_rows, in.transposed, block.padded_rows, batch, row0 + row, lane,
                kWeightLanes);
  own.norm = lane_sum(own.norm, 1, kWeightLanes);
  own.x_score = lane_sum(own.x_score, 1, kWeightLanes);
  own.x_grad = lane_sum(own.x_grad, 1, kWeightLanes);
  if (threadIdx.x < kWeightRows) {
    SVGDX_UNROLL
    for (int s = 0; s < RowScalars<float>::kCount; ++s) redone_scalars[threadIdx.x][s] = 0;
  }
  RowScalars<float> sums{};
  float lean_sum = 0;
  float kappa_h_sum = 0;
  bool has_redone = false;
  const int64_t written = round_up(block.cols, kExpandedTile);  // columns of the planes
  SVGDX_UNROLL_BY(1)
  for (int64_t j0 = 0; j0 < block.cols; j0 += kWeightCols) {
    __syncthreads();
    if (threadIdx.x < kWeightCols) {
      const int64_t j = j0 + threadIdx.x;
      const GradNorms column(block, in.transposed, block.padded_cols, in.direct, block.padded_cols, batch, j,
                             j < written ? 0 : static_cast<int>(block.dim_splits), 1);
      tile.norms[threadIdx.x] = column.norm;
      tile.norms[kWeightCols + threadIdx.x] = column.x_score;
      tile.norms[2 * kWeightCols + threadIdx.x] = column.x_grad;
      tile.h[threadIdx.x] = j < block.cols ? place.h(place.cols, j) : 0.0f;
    }
    // The sums of the thread's pairs, and of those of which it takes the transposes.
    Pack<float, 4> of_direct[PairPlanes::kSums] = {};
    Pack<float, 4> of_transposed[PairPlanes::kSums] = {};
    const int col = threadIdx.x / 2;
    const int four = threadIdx.x % 2 * 4;
    const float* direct = in.direct.sums + (row0 + row) * block.padded_cols + j0 + 4 * lane;
    const float* transposed = in.transposed.sums + (j0 + col) * block.padded_rows + row0 + four;
    const bool has_direct = is_direct && j0 + 4 * lane < written;
    const bool has_transposed = is_transposed && j0 + col < written;
    SVGDX_UNROLL_BY(1)
    for (int64_t split = 0; split < block.dim_splits; ++split) {
      SVGDX_UNROLL
      for (int s = 0; s < PairPlanes::kSums; ++s) {
        const int64_t plane = block.plane(split, s, PairPlanes::kSums, batch);
        if (has_direct) add_four(of_direct[s], direct + plane);
        if (has_transposed && (s > 0 || !is_direct)) add_four(of_transposed[s], transposed + plane);
      }
    }
    if (is_transposed) {
      SVGDX_UNROLL
      for (int s = 0; s < PairPlanes::kSums; ++s) {
        SVGDX_UNROLL
        for (int w = 0; w < 4; ++w) tile.sum(s, four + w)[col] = of_transposed[s].v[w];
      }
    }
    __syncthreads();
    if (is_transposed) {
      SVGDX_UNROLL
      for (int s = 0; s < PairPlanes::kSums; ++s) of_transposed[s] = load_four(tile.sum(s, row) + 4 * lane);
    }
    const Pack<float, 4> col_norm = load_four(tile.norms + 4 * lane);
    const Pack<float, 4> col_score = load_four(tile.norms + kWeightCols + 4 * lane);
    const Pack<float, 4> col_grad = load_four(tile.norms + 2 * kWeightCols + 4 * lane);
    const Pack<float, 4> col_h = load_four(tile.h + 4 * lane);
    Pack<float, 4> kappa;
    Pack<float, 4> lean;
    Pack<int, 4> redone;
    bool cancels = false;
    SVGDX_UNROLL
    for (int w = 0; w < 4; ++w) {
      const int64_t j = j0 + 4 * lane + w;
      kappa.v[w] = lean.v[w] = 0;
      redone.v[w] = 0;
      const float norms = own.norm + col_norm.v[w];
      // The column's norm and products with its own numbers are 0 if the planes that need them are not there.
      const float x_x = is_direct ? of_direct[0].v[w] : of_transposed[0].v[w];
      const float sum[5] = {norms - 2 * x_x, of_direct[1].v[w] - col_score.v[w], own.x_score - of_transposed[1].v[w],
                            of_direct[3].v[w] + of_transposed[3].v[w],
                            own.x_grad + col_grad.v[w] - of_direct[2].v[w] - of_transposed[2].v[w]};
      if (row >= count || j >= block.cols || j == place.self + row) continue;
      const float h_size = (fabsf(h_i) + fabsf(col_h.v[w])) * (1 + place.beta * norms);
      if (!(norms <= kMostCancelled * sum[0] && fabsf(sum[4]) < kMostSummand && h_size < kMostGradSummand)) {
        redone.v[w] = 1;
        cancels = true;
        continue;
      }
      const PairWeights<float> weights(sum, place.beta, static_cast<float>(dim), h_i, col_h.v[w], false);
      weights.add_to(sums, col_h.v[w]);
      kappa.v[w] = weights.kappa;
      lean.v[w] = weights.radial - weights.kappa_beta * col_h.v[w];
      lean_sum += lean.v[w];
      kappa_h_sum += weights.kappa * col_h.v[w];
    }
    *reinterpret_cast<Pack<int, 4>*>(tile.redone + row * kWeightCols + 4 * lane) = redone;
    const int64_t at = batch * block.matrix() + (row0 + row) * block.padded_cols + j0 + 4 * lane;
    if (j0 + 4 * lane < written) {
      *reinterpret_cast<Pack<float, 4>*>(to.kappa + at) = kappa;
      *reinterpret_cast<Pack<float, 4>*>(to.lean + at) = lean;
    }
    if (!__syncthreads_or(cancels)) continue;
    SVGDX_UNROLL_BY(1)
    for (int r = threadIdx.x / 32; r < count; r += kWeightThreads / 32) {
      float* both = to.redone + (batch * block.padded_rows + row0 + r) * dim;
      const int64_t vectors = block.batches * block.padded_rows * dim;
      RowScalars<float> more{};
      redo_pairs(tile, place, j0, more, r, has_redone, both, both + vectors);
      if (threadIdx.x % 32 != 0) continue;
      redone_scalars[r][0] += more.kappa;
      redone_scalars[r][1] += more.kappa_h;
      redone_scalars[r][2] += more.value;
      redone_scalars[r][3] += more.log_sigma;
    }
    has_redone = true;
  }
  __syncthreads();
  const float values[] = {sums.kappa, sums.kappa_h, sums.value, sums.log_sigma, lean_sum, kappa_h_sum};
  const int64_t local = batch * args.shape.rows + block.row0 + row0 + row;
  const int64_t place_of_row = batch * block.padded_rows + row0 + row;
  SVGDX_UNROLL
  for (int s = 0; s < RowScalars<float>::kCount + 2; ++s) {
    const float value = lane_sum(values[s], 1, kWeightLanes);
    if (lane != 0 || row >= count) continue;
    if (s >= RowScalars<float>::kCount) {
      to.row_sums[(s - RowScalars<float>::kCount) * block.batches * block.padded_rows + place_of_row] = value;
      continue;
    }
    float* sum = scalars + s * block.batches * args.shape.rows + local;
    *sum = (in.first ? 0.0f : *sum) + value + redone_scalars[row][s];
  }
  if (lane == 0 && row < count) to.has_redone[place_of_row] = has_redone;
}

inline void expanded_weights(const char* op, const GradWeightInputs& in, PairBlock block, const GradExpansion& to,
                             float* scalars, void* stream) {
  const int64_t row_tiles = ceil_div(block.rows, kWeightRows);
  block.by_row_tiles = Divider(row_tiles);
  launch_blocks(op, row_tiles * block.batches, [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((expanded_grad_weights), grid, kWeightThreads, 0, stream, in, block, to, scalars, first);
  });
}

}  // namespace svgdx::cuda
