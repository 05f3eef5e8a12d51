// Rows and columns of the fused backward kernel in shared memory.
#pragma once

#include "field/cuda/backward_finish.cuh"
#include "field/cuda/fused/tile.cuh"

namespace svgdx::cuda {

// Columns of a tile: three arrays of them and of four warps' rows fit 99 KiB.
constexpr SVGDX_HD int fused_grad_cols(int padded_dim) { return padded_dim <= 32 ? 64 : 32; }

inline FusedPlan plan_fused_grad(const FieldShape& shape, int padded_dim) {
  FusedPlan plan{};
  plan.warp_rows = 16;
  plan.row_warps = shape.rows > 16 && fills_machine(shape, 16 * kFusedWarps) ? kFusedWarps : 1;
  return divide_columns(plan, shape, fused_grad_cols(padded_dim));
}

// Particles in global memory; null means zeros.
struct GradParticles {
  StoredFloats x, score, grad_phi;
  const float* grad_trace;
  int count;

  // Those from `first` on.
  __device__ GradParticles(const FieldGradArgs<float>& args, const float* x, const float* score, const float* grad_phi,
                           const float* grad_trace, int64_t first, int count)
      : x(stored_if(args, x, first * args.shape.dim)),
        score(stored_if(args, score, first * args.shape.dim)),
        grad_phi(stored_if(args, grad_phi, first * args.shape.dim)),
        grad_trace(grad_trace == nullptr ? grad_trace : grad_trace + first),
        count(count) {}
  __device__ static GradParticles rows(const FieldGradArgs<float>& args, int64_t first, int count) {
    return {args, args.row_x, args.row_score, args.row_grad_phi, args.row_grad_trace, first, count};
  }
  __device__ static GradParticles cols(const FieldGradArgs<float>& args, int64_t first, int count) {
    return {args, args.col_x, args.col_score, args.col_grad_phi, args.col_grad_trace, first, count};
  }
  __device__ static float read(const StoredFloats& from, int64_t at) { return from ? from[at] : 0.0f; }
};

// P: the dimensions, padded to 16, 32 or 64 by zeros. X = x - centre, the block's first row.
template <int P>
struct FusedGradTile {
  static constexpr int kPacks = P / 4;
  static constexpr int kStride = FusedTile<P>::kStride;
  static constexpr int kCols = fused_grad_cols(P);
  static constexpr int kScalars = 6;                  // of a row: those of RowScalars, then those of pairs by products
  static constexpr int kWarpRows = kFusedWarps * 16;  // of all warps

  struct Particles {
    float *x, *score, *grad;  // X, s, G
    float* norm;              // |X|^2; NaN if a number is too large for products
    float *x_score, *x_grad;  // X . s, X . G
    float* h;
  };
  Particles rows, cols;
  float* centre;
  float* sums;     // (2, warps, 16, kStride), over all but X of the rows
  float* scalars;  // (kScalars, warps, 16)

  // Numbers behind X of the rows: the other arrays, or the sums after all columns.
  SVGDX_HD static size_t behind(int count) {
    const size_t arrays = (2 * size_t(count) + 3 * kCols) * kStride;
    const size_t all_sums = 2 * kWarpRows * kStride;
    return arrays < all_sums ? all_sums : arrays;
  }
  static size_t bytes(int count) {
    return carve_bytes<float>(size_t(count) * kStride) + carve_bytes<float>(behind(count)) + carve_bytes<float>(P) +
           4 * (carve_bytes<float>(size_t(count)) + carve_bytes<float>(kCols)) +
           carve_bytes<float>(kScalars * kWarpRows);
  }
  __device__ explicit FusedGradTile(int count) {
    SharedCarver carver;
    SVGDX_CARVE(carver, float, carved_rows, count* kStride);
    SVGDX_CARVE(carver, float, carved_arrays, behind(count));
    SVGDX_CARVE(carver, float, carved_centre, P);
    SVGDX_CARVE(carver, float, row_norm, count);
    SVGDX_CARVE(carver, float, row_x_score, count);
    SVGDX_CARVE(carver, float, row_x_grad, count);
    SVGDX_CARVE(carver, float, row_h, count);
    SVGDX_CARVE(carver, float, col_norm, kCols);
    SVGDX_CARVE(carver, float, col_x_score, kCols);
    SVGDX_CARVE(carver, float, col_x_grad, kCols);
    SVGDX_CARVE(carver, float, col_h, kCols);
    SVGDX_CARVE(carver, float, carved_scalars, kScalars * kFusedWarps * 16);
    float* of_cols = carved_arrays + 2 * count * kStride;
    constexpr int kArray = kCols * kStride;
    rows = Particles{carved_rows, carved_arrays, carved_arrays + count * kStride, row_norm, row_x_score,
                     row_x_grad,  row_h};
    cols = Particles{of_cols, of_cols + kArray, of_cols + 2 * kArray, col_norm, col_x_score, col_x_grad, col_h};
    centre = carved_centre;
    sums = carved_arrays;
    scalars = carved_scalars;
  }

  // Loads particles [0, from.count), zeros up to `all`. A barrier has to follow.
  __device__ void load(const Particles& to, const GradParticles& from, int all, int dim, float beta, float sign,
                       bool wide) const {
    constexpr float kMost = 1e12f;  // so that no product of three numbers overflows
    float c[4];
    FusedTile<P>::read(c, centre, threadIdx.x % kPacks, wide);
    for (int e = threadIdx.x; e < all * kPacks; e += kFusedThreads) {
      const int j = e / kPacks;
      const int pack = e % kPacks;
      const bool inside = j < from.count;
      float vx[4];
      float vs[4];
      float vg[4];
      FusedTile<P>::load(vx, from.x + int64_t(j) * dim, pack, dim, inside, wide);
      FusedTile<P>::load(vs, from.score + int64_t(j) * dim, pack, dim, inside && bool(from.score), wide);
      FusedTile<P>::load(vg, from.grad_phi + int64_t(j) * dim, pack, dim, inside && bool(from.grad_phi), wide);
      const float h = inside && from.grad_trace != nullptr ? sign * from.grad_trace[j] : 0.0f;
      float norm = 0;
      float x_score = 0;
      float x_grad = 0;
      SVGDX_UNROLL
      for (int w = 0; w < 4; ++w) {
        vx[w] = inside ? vx[w] - c[w] : 0.0f;
        const float size = fabsf(vx[w]) + fabsf(vs[w]) + fabsf(vg[w]) + fabsf(h) * (1 + beta * fabsf(vx[w]));
        norm += size < kMost ? vx[w] * vx[w] : not_a_number<float>();
        x_score += vx[w] * vs[w];
        x_grad += vx[w] * vg[w];
      }
      FusedTile<P>::store(to.x + j * kStride, vx, pack, wide);
      FusedTile<P>::store(to.score + j * kStride, vs, pack, wide);
      FusedTile<P>::store(to.grad + j * kStride, vg, pack, wide);
      norm = lane_sum(norm, 1, kPacks);
      x_score = lane_sum(x_score, 1, kPacks);
      x_grad = lane_sum(x_grad, 1, kPacks);
      if (pack != 0) continue;
      to.norm[j] = norm;
      to.x_score[j] = x_score;
      to.x_grad[j] = x_grad;
      to.h[j] = h;
    }
  }
};

}  // namespace svgdx::cuda
