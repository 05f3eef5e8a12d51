// A warp's 16 rows against 16 columns of a tile: kernel values by expanded sums on tensor cores,
//   |x_i - x_j|^2 = |X_i|^2 + |X_j|^2 - 2 X_i . X_j,   X = x - centre,
// or by differences if a pair is close to each other and far from the centre, where the expanded sums would cancel.
#pragma once

#include "field/cuda/fused/tile.cuh"
#include "field/pair.h"

namespace svgdx::cuda {

// The expanded sums are used if |X_i|^2 + |X_j|^2 is at most this multiple of the squared distance: at most four of
// their 24 bits cancel.
constexpr float kMostCancelled = 16;

// Up to 32 dimensions, all bits may cancel if |X_i|^2 + |X_j|^2 changes kappa by 2^-22 of itself only, that is, if
// kappa of that distance is at least 2^-kSmallNorms. Larger norms would also cost z, in which their multiples of beta
// cancel, more than its last bits.
constexpr float kSmallNorms = 4;

// A lane's pairs: rows g and g + 8, columns 2t, 2t + 1, 2t + 8, 2t + 9, in the order of a product's C; kappa is 0 for
// pairs that do not count.
struct FusedPairs {
  float q[2][4], r_dot_s[2][4], kappa[2][4];

  __device__ static int row(int e) { return int(threadIdx.x) % 32 / 4 + e / 2 * 8; }
  __device__ static int col(int n, int e) { return 8 * n + int(threadIdx.x) % 4 * 2 + e % 2; }
};

// X . X and X . score, dimension by dimension of 8.
template <int Parts, int P>
__device__ inline void expanded_sums(FusedPairs& pairs, const FusedTile<P>& tile, int row0, int col0, int steps) {
  constexpr int kStride = FusedTile<P>::kStride;
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  ProductSum<Parts> x_x[2];
  ProductSum<Parts> x_s[2];
  SVGDX_UNROLL_BY(1)
  for (int k = 0; k < steps; ++k) {
    const int d = 8 * k + t;
    const float centre[2] = {tile.rows[d], tile.rows[d + 4]};
    Split<4, Parts> row;
    SVGDX_UNROLL
    for (int e = 0; e < 4; ++e) {
      row.set(e, tile.rows[(row0 + g + e % 2 * 8) * kStride + d + e / 2 * 4] - centre[e / 2]);
    }
    SVGDX_UNROLL
    for (int n = 0; n < 2; ++n) {
      const int at = (col0 + 8 * n + g) * kStride + d;
      Split<2, Parts> x;
      Split<2, Parts> score;
      SVGDX_UNROLL
      for (int e = 0; e < 2; ++e) {
        x.set(e, tile.x[at + 4 * e] - centre[e]);
        score.set(e, tile.score[at + 4 * e]);
      }
      x_x[n].add(row, x);
      x_s[n].add(row, score);
    }
  }
  SVGDX_UNROLL
  for (int n = 0; n < 2; ++n) {
    SVGDX_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int j = col0 + FusedPairs::col(n, e);
      pairs.q[n][e] = tile.row_norm[row0 + FusedPairs::row(e)] + tile.col_norm[j] - 2 * x_x[n].total(e);
      pairs.r_dot_s[n][e] = x_s[n].total(e) - tile.col_weight[j];
    }
  }
}

// The same sums by differences.
template <int P>
__device__ inline void direct_sums(FusedPairs& pairs, const FusedTile<P>& tile, int row0, int col0, int dim) {
  constexpr int kStride = FusedTile<P>::kStride;
  SVGDX_UNROLL
  for (int n = 0; n < 2; ++n) {
    SVGDX_UNROLL
    for (int e = 0; e < 4; ++e) pairs.q[n][e] = pairs.r_dot_s[n][e] = 0;
  }
  SVGDX_UNROLL_BY(1)
  for (int d = 0; d < dim; ++d) {
    SVGDX_UNROLL
    for (int n = 0; n < 2; ++n) {
      SVGDX_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int at = (col0 + FusedPairs::col(n, e)) * kStride + d;
        const float r = tile.rows[(row0 + FusedPairs::row(e)) * kStride + d] - tile.x[at];
        pairs.q[n][e] += r * r;
        pairs.r_dot_s[n][e] += r * tile.score[at];
      }
    }
  }
}

// A warp's sums over its columns: z as the C of products, in blocks of eight dimensions.
template <int P>
struct FusedSums {
  float z[P / 8][4] = {};
  float trace[2] = {};  // of rows g and g + 8
  float kappa[2] = {};  // of the pairs whose z came from products: beta X_i sum kappa is still to be added
};

// z_i += sum_j kappa_ij (s_j - beta X_j)
template <int Parts, int P>
__device__ inline void add_products(FusedSums<P>& sums, const FusedPairs& pairs, const FusedTile<P>& tile, int col0,
                                    int dim, float beta) {
  constexpr int kStride = FusedTile<P>::kStride;
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  Split<4, Parts> kappa[2];
  SVGDX_UNROLL
  for (int n = 0; n < 2; ++n) {
    SVGDX_UNROLL
    for (int e = 0; e < 4; ++e) {
      kappa[n].set(e, pairs.kappa[n][e % 2 * 2 + e / 2]);
      sums.kappa[e / 2] += pairs.kappa[n][e];
    }
  }
  SVGDX_UNROLL
  for (int block = 0; block < P / 8; ++block) {
    if (8 * block >= dim) continue;
    const int d = 8 * block + g;
    const float centre = tile.rows[d];
    ProductSum<Parts> product;
    SVGDX_UNROLL
    for (int n = 0; n < 2; ++n) {
      Split<2, Parts> y;
      SVGDX_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int at = (col0 + 8 * n + 2 * t + e) * kStride + d;
        y.set(e, tile.score[at] - beta * (tile.x[at] - centre));
      }
      product.add(kappa[n], y);
    }
    SVGDX_UNROLL
    for (int e = 0; e < 4; ++e) sums.z[block][e] += product.total(e);
  }
}

// z_i += sum_j kappa_ij (s_j + beta r_ij)
template <int P>
__device__ inline void add_differences(FusedSums<P>& sums, const FusedPairs& pairs, const FusedTile<P>& tile, int row0,
                                       int col0, int dim, float beta) {
  constexpr int kStride = FusedTile<P>::kStride;
  float* stage = tile.stage + threadIdx.x / 32 * 16 * FusedTile<P>::kStage;
  const int t = threadIdx.x % 4;
  __syncwarp();
  SVGDX_UNROLL
  for (int n = 0; n < 2; ++n) {
    SVGDX_UNROLL
    for (int e = 0; e < 4; ++e) {
      stage[FusedPairs::row(e) * FusedTile<P>::kStage + FusedPairs::col(n, e)] = pairs.kappa[n][e];
    }
  }
  __syncwarp();
  SVGDX_UNROLL_BY(1)
  for (int j = 0; j < 16; ++j) {
    SVGDX_UNROLL
    for (int block = 0; block < P / 8; ++block) {
      if (8 * block >= dim) continue;
      SVGDX_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int i = FusedPairs::row(e);
        const float kappa = stage[i * FusedTile<P>::kStage + j];
        if (kappa == 0) continue;  // z may overflow
        const int d = 8 * block + 2 * t + e % 2;
        const int at = (col0 + j) * kStride + d;
        sums.z[block][e] += kappa * (tile.score[at] + beta * (tile.rows[(row0 + i) * kStride + d] - tile.x[at]));
      }
    }
  }
}

// Adds 16 columns. `self`: the tile's column that is row 0 of the warp, if rows and columns are the same particles;
// `count`: the columns that there are.
template <int Parts, int P>
__device__ inline void add_pairs(FusedSums<P>& sums, const FusedTile<P>& tile, int row0, int col0, int count, int dim,
                                 float beta, bool has_self, int64_t self) {
  FusedPairs pairs;
  expanded_sums<Parts>(pairs, tile, row0, col0, (dim + 7) / 8);
  unsigned skipped = 0;
  bool cancels = false;
  SVGDX_UNROLL
  for (int n = 0; n < 2; ++n) {
    SVGDX_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int j = col0 + FusedPairs::col(n, e);
      const int i = row0 + FusedPairs::row(e);
      const bool skip = j >= count || (has_self && j == self + FusedPairs::row(e));
      skipped |= unsigned(skip) << (4 * n + e);
      cancels = cancels || (!skip && !(tile.row_norm[i] + tile.col_norm[j] <= kMostCancelled * pairs.q[n][e]));
    }
  }
  const bool direct = __any_sync(kFullWarp, cancels);
  if (direct) direct_sums(pairs, tile, row0, col0, dim);
  const float scale = beta * float(-0.5 * pair::kLog2E);
  SVGDX_UNROLL
  for (int n = 0; n < 2; ++n) {
    SVGDX_UNROLL
    for (int e = 0; e < 4; ++e) {
      const float q = pairs.q[n][e];
      float kappa = power_of_two(scale * q);
      if (skipped >> (4 * n + e) & 1) kappa = 0;
      pairs.kappa[n][e] = kappa;
      if (kappa != 0) {
        sums.trace[e / 2] += pair::trace_term(kappa, static_cast<float>(dim), pairs.r_dot_s[n][e] + beta * q);
      }
    }
  }
  if (direct) {
    add_differences(sums, pairs, tile, row0, col0, dim, beta);
  } else {
    add_products<Parts>(sums, pairs, tile, col0, dim, beta);
  }
}

}  // namespace svgdx::cuda
