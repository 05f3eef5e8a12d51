// A warp's 16 rows against eight columns of a tile in the backward pass: a pair's sums by products on tensor cores,
// with X = x - centre, or by differences if the expanded sums of one of the warp's pairs cancel (pairs.cuh). The sums
// over columns are, with the weights kappa and radial of backward_pair.cuh,
//   score_i = sum_j kappa (G_j + beta h_j r_ij),   both_i = sum_j [ -kappa h_i s_j - lean r_ij ],
//   lean = radial - kappa beta h_j.
// The sum for x is both - score, so that three products do for both sums; forming it by itself would take four.
#pragma once

#include "field/cuda/backward_pair.cuh"
#include "field/cuda/fused/grad_tile.cuh"
#include "field/cuda/fused/pairs.cuh"
#include "field/cuda/pairs.cuh"

namespace svgdx::cuda {

// A warp's sums over its columns: vectors as the C of products, in blocks of eight dimensions; scalars of rows g and
// g + 8. Pairs by products have added -X_j instead of r_ij, so that X_i times their weights is still to be added.
template <int P>
struct FusedGradSums {
  float both[P / 8][4] = {};
  float score[P / 8][4] = {};
  RowScalars<float> rows[2] = {};
  float lean[2] = {};
  float kappa_h[2] = {};
};

// Where a warp's pairs are. Arrays are those of the arguments, so that pairs by differences take no registers of
// others.
struct GradBlock {
  const FieldGradArgs<float>& args;
  int64_t row_at, col_at;    // numbers before the warp's first row and the tile's first column in global memory
  int row_count, col_count;  // rows and columns that there are, from these on
  int row0, dim, steps;
  int64_t self;  // the tile's column that is the warp's first row
  float beta;
  float small;  // norms up to this one may cancel, see pairs.cuh

  __device__ GradParticles rows() const { return GradParticles::rows(args, 0, row_count); }
  __device__ GradParticles cols() const { return GradParticles::cols(args, 0, col_count); }
  __device__ bool skips(int i, int j) const { return j >= col_count || (args.self && j == self + i); }
  __device__ int64_t row(int i) const { return row_at + int64_t(max(0, min(i, row_count - 1))) * dim; }
  __device__ int64_t col(int j) const { return col_at + int64_t(j) * dim; }
};

// The five sums of a pair (pair::Sums) by differences.
__device__ inline void direct_grad_sums(float (&sum)[5], const GradBlock& block, int i, int j) {
  SVGDX_UNROLL
  for (int s = 0; s < 5; ++s) sum[s] = 0;
  if (j >= block.col_count) return;
  const GradParticles rows = block.rows();
  const GradParticles cols = block.cols();
  SVGDX_UNROLL_BY(1)
  for (int d = 0; d < block.dim; ++d) {
    const int64_t to = block.row(i) + d;
    const int64_t from = block.col(j) + d;
    const float row[3] = {rows.x[to], GradParticles::read(rows.score, to), GradParticles::read(rows.grad_phi, to)};
    const float col[3] = {cols.x[from], GradParticles::read(cols.score, from),
                          GradParticles::read(cols.grad_phi, from)};
    BackwardPairs::add(sum, row, col);
  }
}

// A sum of products over all dimensions. Those of more than 32 leave tensor cores after every eight: what rounding
// towards zero adds up to would exceed the rounding errors of float32.
template <int P, int Parts>
struct DimensionSum {
  ProductSum<Parts> product;
  float sum[4] = {};
  __device__ void add(const Split<4, Parts>& a, const Split<2, Parts>& b) { product.add(a, b); }
  __device__ void end_step() {
    if constexpr (P > 32) {
      SVGDX_UNROLL
      for (int e = 0; e < 4; ++e) {
        sum[e] += product.big[e];
        product.big[e] = 0;
      }
    }
  }
  __device__ float total(int e) const { return P <= 32 ? product.total(e) : sum[e] + product.small[e]; }
};

// The products of rows with columns, dimension by dimension of 8.
template <int P, int Parts>
struct GradProducts {
  DimensionSum<P, Parts> x_x, x_s, s_x, g_s, g_x;

  __device__ void add(const FusedGradTile<P>& tile, int row0, int col0, int steps) {
    constexpr int kStride = FusedGradTile<P>::kStride;
    const int g = threadIdx.x % 32 / 4;
    const int t = threadIdx.x % 4;
    SVGDX_UNROLL_BY(1)
    for (int k = 0; k < steps; ++k) {
      const int d = 8 * k + t;
      Split<4, Parts> x;
      Split<4, Parts> score;
      Split<4, Parts> grad;
      SVGDX_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int at = (row0 + g + e % 2 * 8) * kStride + d + e / 2 * 4;
        x.set(e, tile.rows.x[at]);
        score.set(e, tile.rows.score[at]);
        grad.set(e, tile.rows.grad[at]);
      }
      const int at = (col0 + g) * kStride + d;
      Split<2, Parts> col_x;
      Split<2, Parts> col_score;
      Split<2, Parts> col_grad;
      SVGDX_UNROLL
      for (int e = 0; e < 2; ++e) {
        col_x.set(e, tile.cols.x[at + 4 * e]);
        col_score.set(e, tile.cols.score[at + 4 * e]);
        col_grad.set(e, tile.cols.grad[at + 4 * e]);
      }
      x_x.add(x, col_x);
      x_s.add(x, col_score);
      s_x.add(score, col_x);
      g_s.add(grad, col_score);
      g_s.add(score, col_grad);
      g_x.add(grad, col_x);
      g_x.add(x, col_grad);
      x_x.end_step();
      x_s.end_step();
      s_x.end_step();
      g_s.end_step();
      g_x.end_step();
    }
  }
  // pair::Sums of row i and column j.
  __device__ void sums(float (&sum)[5], const FusedGradTile<P>& tile, int i, int j, int e) const {
    sum[0] = tile.rows.norm[i] + tile.cols.norm[j] - 2 * x_x.total(e);
    sum[1] = x_s.total(e) - tile.cols.x_score[j];
    sum[2] = tile.rows.x_score[i] - s_x.total(e);
    sum[3] = g_s.total(e);
    sum[4] = tile.rows.x_grad[i] + tile.cols.x_grad[j] - g_x.total(e);
  }
};

// The weights of a lane's pairs in the sums over columns.
struct GradWeights {
  float kappa[4], lean[4];
};

template <int Parts, int P>
__device__ inline void add_grad_products(FusedGradSums<P>& sums, const GradWeights& weights,
                                         const FusedGradTile<P>& tile, const GradBlock& block, int col0) {
  constexpr int kStride = FusedGradTile<P>::kStride;
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  Split<4, Parts> kappa;
  Split<4, Parts> minus_kappa_h;
  Split<4, Parts> lean;
  float beta_h[2];
  SVGDX_UNROLL
  for (int e = 0; e < 4; ++e) {
    const int c = e % 2 * 2 + e / 2;
    kappa.set(e, weights.kappa[c]);
    minus_kappa_h.set(e, -weights.kappa[c] * tile.rows.h[block.row0 + FusedPairs::row(c)]);
    lean.set(e, weights.lean[c]);
  }
  SVGDX_UNROLL
  for (int e = 0; e < 2; ++e) beta_h[e] = block.beta * tile.cols.h[col0 + 2 * t + e];
  SVGDX_UNROLL
  for (int b = 0; b < P / 8; ++b) {
    if (b >= block.steps) continue;
    Split<2, Parts> x;
    Split<2, Parts> s;
    Split<2, Parts> y;
    SVGDX_UNROLL
    for (int e = 0; e < 2; ++e) {
      const int at = (col0 + 2 * t + e) * kStride + 8 * b + g;
      const float value = tile.cols.x[at];
      x.set(e, value);
      s.set(e, tile.cols.score[at]);
      y.set(e, tile.cols.grad[at] - beta_h[e] * value);
    }
    ProductSum<Parts> both;
    ProductSum<Parts> score;
    both.add(minus_kappa_h, s);
    both.add(lean, x);
    score.add(kappa, y);
    SVGDX_UNROLL
    for (int e = 0; e < 4; ++e) {
      sums.both[b][e] += both.total(e);
      sums.score[b][e] += score.total(e);
    }
  }
}

template <int P>
__device__ inline void add_grad_differences(FusedGradSums<P>& sums, const GradWeights& weights,
                                            const FusedGradTile<P>& tile, const GradBlock& block, int col0) {
  const int t = threadIdx.x % 4;
  const GradParticles rows = block.rows();
  const GradParticles cols = block.cols();
  SVGDX_UNROLL_BY(1)
  for (int c = 0; c < 8; ++c) {
    const int j = col0 + c;
    const int64_t from = block.col(j);
    const float beta_h = block.beta * tile.cols.h[j];
    SVGDX_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int source = (threadIdx.x % 32 & ~3u) + c / 2;
      const int i = FusedPairs::row(2 * half);
      const float own_kappa = c % 2 == 0 ? weights.kappa[2 * half] : weights.kappa[2 * half + 1];
      const float own_lean = c % 2 == 0 ? weights.lean[2 * half] : weights.lean[2 * half + 1];
      const float kappa = __shfl_sync(kFullWarp, own_kappa, source);
      const float lean = __shfl_sync(kFullWarp, own_lean, source);
      if (kappa == 0) continue;  // other factors may overflow, and a column that is not there has no numbers
      const float kappa_h = kappa * tile.rows.h[block.row0 + i];
      SVGDX_UNROLL
      for (int m = 0; m < P / 8 * 2; ++m) {
        const int d = m / 2 * 8 + 2 * t + m % 2;
        if (d >= block.dim) continue;
        const float r = rows.x[block.row(i) + d] - cols.x[from + d];
        const float s = GradParticles::read(cols.score, from + d);
        const float g = GradParticles::read(cols.grad_phi, from + d);
        sums.both[m / 2][2 * half + m % 2] -= kappa_h * s + lean * r;
        sums.score[m / 2][2 * half + m % 2] += kappa * g + kappa * beta_h * r;
      }
    }
  }
}

// Adds columns [col0, col0 + 8) of the tile.
template <int Parts, int P>
__device__ inline void add_grad_pairs(FusedGradSums<P>& sums, const FusedGradTile<P>& tile, const GradBlock& block,
                                      int col0) {
  GradProducts<P, Parts> products;
  products.add(tile, block.row0, col0, block.steps);
  bool cancels = false;
  SVGDX_UNROLL
  for (int e = 0; e < 4; ++e) {
    const int i = FusedPairs::row(e);
    const int j = col0 + FusedPairs::col(0, e);
    const float norms = tile.rows.norm[block.row0 + i] + tile.cols.norm[j];
    const bool keeps = norms <= kMostCancelled * (norms - 2 * products.x_x.total(e)) + block.small;
    cancels = cancels || !(keeps || (block.skips(i, j) && norms == norms));
  }
  const bool direct = __any_sync(kFullWarp, cancels);
  GradWeights weights;
  SVGDX_UNROLL
  for (int e = 0; e < 4; ++e) {
    const int i = FusedPairs::row(e);
    const int j = col0 + FusedPairs::col(0, e);
    float sum[5];
    if (direct) {
      direct_grad_sums(sum, block, i, j);
    } else {
      products.sums(sum, tile, block.row0 + i, j, e);
    }
    const float h_j = tile.cols.h[j];
    const PairWeights<float> pair(sum, block.beta, static_cast<float>(block.dim), tile.rows.h[block.row0 + i], h_j,
                                  block.skips(i, j));
    pair.add_to(sums.rows[e / 2], h_j);
    weights.kappa[e] = pair.kappa;
    weights.lean[e] = pair.radial - pair.kappa_beta * h_j;
    if (direct) continue;
    sums.lean[e / 2] += weights.lean[e];
    sums.kappa_h[e / 2] += pair.kappa * h_j;
  }
  if (direct) {
    add_grad_differences(sums, weights, tile, block, col0);
  } else {
    add_grad_products<Parts>(sums, weights, tile, block, col0);
  }
}

}  // namespace svgdx::cuda
