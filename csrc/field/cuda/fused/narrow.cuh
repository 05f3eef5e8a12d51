// The fused kernel for dim <= 32, which instruction issue bounds: the rows' operands stay in registers in two parts,
// columns are centred once for their tile, and a warp takes eight columns at a time.
#pragma once

#include "field/cuda/fused/pairs.cuh"
#include "field/cuda/fused/write.cuh"

namespace svgdx::cuda {

// kappa = 2^exponent with exponent = -beta log2(e) / 2 |x_i - x_j|^2. Columns that there are not have this factor of
// it, which makes kappa 0.
constexpr float kNoExponent = -1e30f;

// Numbers below these bounds overflow in no product and no exponent; a particle with others has pairs by differences.
constexpr float kMostNumber = 1e18f;
constexpr float kMostSquare = kMostNumber * kMostNumber;

// The exponent of a squared norm; NaN beyond the bounds.
__device__ inline float exponent_of(float norm, float factor) {
  return norm < kMostSquare && -factor * norm < kMostSquare ? factor * norm : not_a_number<float>();
}

// As in pairs.cuh, at most four bits of an exponent cancel, unless norms are small.
__device__ inline bool is_exact(float norms, float exponent) {
  return norms >= kMostCancelled * exponent - kSmallNorms;
}

// Columns in shared memory, as FusedTile has them, but X = x - centre and Y = s - beta X beside s.
template <int P>
struct NarrowTile {
  static constexpr int kPacks = P / 4;
  static constexpr int kStride = FusedTile<P>::kStride;
  static constexpr int kCols = FusedTile<P>::kCols;
  static constexpr int kArray = kCols * kStride;
  static constexpr int kPerThread = kCols * kPacks / kFusedThreads;  // packs that a thread loads

  float *x, *score, *y;  // also the block's rows before, and its sums after all columns
  float* centre;         // (P)
  float* exponent;       // (kCols): |X|^2 times its factor; NaN beyond the bounds
  float* constant;       // (kCols): D + X . s
  float* scalars;        // (2, rows of all warps): trace and kappa

  static size_t bytes(int rows) {
    return carve_bytes<float>(3 * kArray) + carve_bytes<float>(P) + 2 * carve_bytes<float>(kCols) +
           carve_bytes<float>(size_t(2 * kFusedWarps) * rows);
  }
  // `rows`: of a warp.
  __device__ explicit NarrowTile(int rows) {
    SharedCarver carver;
    SVGDX_CARVE(carver, float, carved_columns, 3 * kArray);
    SVGDX_CARVE(carver, float, carved_centre, P);
    SVGDX_CARVE(carver, float, carved_exponent, kCols);
    SVGDX_CARVE(carver, float, carved_constant, kCols);
    SVGDX_CARVE(carver, float, carved_scalars, 2 * kFusedWarps * rows);
    x = carved_columns;
    score = x + kArray;
    y = score + kArray;
    centre = carved_centre;
    exponent = carved_exponent;
    constant = carved_constant;
    scalars = carved_scalars;
  }

  // Loads columns [0, count), zeros up to kCols. Barriers have to be before and behind.
  __device__ void load_columns(const StoredFloats& from_x, const StoredFloats& from_score, int count, int dim,
                               float beta, float factor, bool wide) const {
    float c[4];
    FusedTile<P>::read(c, centre, threadIdx.x % kPacks, wide);
    float vx[kPerThread][4];
    float vs[kPerThread][4];
    SVGDX_UNROLL
    for (int n = 0; n < kPerThread; ++n) {
      const int e = threadIdx.x + n * kFusedThreads;
      const int64_t row = int64_t(e / kPacks) * dim;
      FusedTile<P>::load(vx[n], from_x + row, e % kPacks, dim, e / kPacks < count, wide);
      FusedTile<P>::load(vs[n], from_score + row, e % kPacks, dim, e / kPacks < count, wide);
    }
    SVGDX_UNROLL
    for (int n = 0; n < kPerThread; ++n) {
      const int e = threadIdx.x + n * kFusedThreads;
      const int j = e / kPacks;
      float vy[4];
      float norm = 0;
      float weight = 0;
      SVGDX_UNROLL
      for (int w = 0; w < 4; ++w) {
        vx[n][w] = j < count ? vx[n][w] - c[w] : 0.0f;
        norm += fabsf(vs[n][w]) + beta * fabsf(vx[n][w]) < kMostNumber ? vx[n][w] * vx[n][w] : not_a_number<float>();
        weight += vx[n][w] * vs[n][w];
        vy[w] = vs[n][w] - beta * vx[n][w];
      }
      FusedTile<P>::store(x + j * kStride, vx[n], e % kPacks, wide);
      FusedTile<P>::store(score + j * kStride, vs[n], e % kPacks, wide);
      FusedTile<P>::store(y + j * kStride, vy, e % kPacks, wide);
      norm = lane_sum(norm, 1, kPacks);
      weight = lane_sum(weight, 1, kPacks);
      if (e % kPacks != 0) continue;
      exponent[j] = j < count ? exponent_of(norm, factor) : kNoExponent;
      constant[j] = static_cast<float>(dim) + weight;
    }
  }
};

// A warp's R x 16 rows: operands of products, and sums over its columns as the C of products.
template <int P, int R, int Parts>
struct NarrowRows {
  Split<4, Parts> x[R][P / 8];  // X, dimension by dimension of 8
  float exponent[R][2];         // of rows g and g + 8
  float z[R][P / 8][4];         // sum_j kappa_ij Y_j of the larger parts; row by row with FusedPairs::row
  float low[R][P / 8][4];  // of the smaller parts, which stay on tensor cores: what these round off is below float32
  float trace[R][2], kappa[R][2];

  // Reads the rows from [row][dimension], in which they are centred.
  __device__ void begin(const float* rows, float factor) {
    constexpr int kStride = FusedTile<P>::kStride;
    const int g = threadIdx.x % 32 / 4;
    const int t = threadIdx.x % 4;
    SVGDX_UNROLL
    for (int r = 0; r < R; ++r) {
      float norm[2] = {};
      SVGDX_UNROLL
      for (int k = 0; k < P / 8; ++k) {
        SVGDX_UNROLL
        for (int e = 0; e < 4; ++e) {
          const float value = rows[(16 * r + g + e % 2 * 8) * kStride + 8 * k + t + e / 2 * 4];
          x[r][k].set(e, value);
          norm[e % 2] += value * value;
          z[r][k][e] = low[r][k][e] = 0;
        }
      }
      SVGDX_UNROLL
      for (int half = 0; half < 2; ++half) {
        exponent[r][half] = exponent_of(lane_sum(norm[half], 1, 4), factor);
        trace[r][half] = kappa[r][half] = 0;
      }
    }
  }
};

// Where a warp's pairs stand in global memory, for differences.
constexpr int kNoSelf = -64;
struct NarrowPairs {
  StoredFloats query, x, score;  // the warp's first row, the tile's first column
  int rows, count, dim;          // rows and columns that there are, from these on
  int self;                      // the tile's column that is the warp's first row; kNoSelf if there is none
  float beta, factor;

  __device__ bool counts(int i, int j) const { return j < count && j != self + i; }
  __device__ StoredFloats row(int i) const { return query + int64_t(min(i, rows - 1)) * dim; }
};

// Eight columns by differences: kappa of the lane's pairs, then z.
template <int P, int R, int Parts>
__device__ inline void add_differences(NarrowRows<P, R, Parts>& rows, const NarrowPairs& pairs, int col0) {
  const int t = threadIdx.x % 4;
  SVGDX_UNROLL_BY(1)
  for (int r = 0; r < R; ++r) {
    float kappa[4];
    SVGDX_UNROLL
    for (int e = 0; e < 4; ++e) {
      const int i = 16 * r + FusedPairs::row(e);
      const int j = col0 + 2 * t + e % 2;
      kappa[e] = 0;
      if (!pairs.counts(i, j)) continue;
      float q = 0;
      float r_dot_s = 0;
      for (int d = 0; d < pairs.dim; ++d) {
        const float difference = pairs.row(i)[d] - pairs.x[int64_t(j) * pairs.dim + d];
        q += difference * difference;
        r_dot_s += difference * pairs.score[int64_t(j) * pairs.dim + d];
      }
      kappa[e] = power_of_two(pairs.factor * q);
      if (kappa[e] == 0) continue;
      const float trace = pair::trace_term(kappa[e], static_cast<float>(pairs.dim), r_dot_s + pairs.beta * q);
      SVGDX_UNROLL
      for (int m = 0; m < R; ++m) rows.trace[m][e / 2] += m == r ? trace : 0.0f;
    }
    SVGDX_UNROLL_BY(1)
    for (int c = 0; c < 8; ++c) {
      const int64_t at = int64_t(col0 + c) * pairs.dim;
      SVGDX_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float from = c % 2 == 0 ? kappa[2 * half] : kappa[2 * half + 1];
        const float weight = __shfl_sync(kFullWarp, from, (threadIdx.x % 32 & ~3u) + c / 2);
        if (weight == 0) continue;  // z may overflow
        const StoredFloats x_i = pairs.row(16 * r + FusedPairs::row(2 * half));
        SVGDX_UNROLL
        for (int n = 0; n < P / 8 * 2; ++n) {
          const int d = n / 2 * 8 + 2 * t + n % 2;
          if (d >= pairs.dim) continue;
          const float z = weight * (pairs.score[at + d] + pairs.beta * (x_i[d] - pairs.x[at + d]));
          SVGDX_UNROLL
          for (int m = 0; m < R; ++m) rows.z[m][n / 2][2 * half + n % 2] += m == r ? z : 0.0f;
        }
      }
    }
  }
}

// Adds columns [col0, col0 + 8) of the tile.
template <int P, int R, int Parts>
__device__ inline void add_columns(NarrowRows<P, R, Parts>& rows, const NarrowTile<P>& tile, const NarrowPairs& pairs,
                                   int col0) {
  constexpr int kStride = NarrowTile<P>::kStride;
  constexpr float kTwiceLn2 = 1.3862943611198906f;
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  ProductSum<Parts> x_x[R];
  ProductSum<Parts> x_s[R];
  SVGDX_UNROLL
  for (int k = 0; k < P / 8; ++k) {
    if (P > 16 && 8 * k >= pairs.dim) continue;
    const int at = (col0 + g) * kStride + 8 * k + t;
    Split<2, Parts> x;
    Split<2, Parts> score;
    SVGDX_UNROLL
    for (int e = 0; e < 2; ++e) {
      x.set(e, tile.x[at + 4 * e]);
      score.set(e, tile.score[at + 4 * e]);
    }
    SVGDX_UNROLL
    for (int r = 0; r < R; ++r) {
      x_x[r].add(rows.x[r][k], x);
      x_s[r].add(rows.x[r][k], score);
    }
  }
  float exponent[R][4];
  bool exact = true;
  const auto norm_exponent = [&](int r, int e) {
    return rows.exponent[r][e / 2] + tile.exponent[col0 + 2 * t + e % 2];
  };
  const int ahead = pairs.self - col0;
  SVGDX_UNROLL
  for (int r = 0; r < R; ++r) {
    SVGDX_UNROLL
    for (int e = 0; e < 4; ++e) {
      const float norms = norm_exponent(r, e);
      exponent[r][e] = -2 * pairs.factor * x_x[r].big[e] + (-2 * pairs.factor * x_x[r].small[e] + norms);
      exact = exact && is_exact(norms, exponent[r][e]);
    }
  }
  if (ahead > -16 * R && ahead < 8) {
    exact = true;
    SVGDX_UNROLL
    for (int r = 0; r < R; ++r) {
      SVGDX_UNROLL
      for (int e = 0; e < 4; ++e) {
        if (2 * t + e % 2 == ahead + 16 * r + FusedPairs::row(e)) exponent[r][e] = kNoExponent;
        exact = exact && is_exact(norm_exponent(r, e), exponent[r][e]);
      }
    }
  }
  if (__any_sync(kFullWarp, !exact)) return add_differences(rows, pairs, col0);
  Split<4, Parts> kappa[R];
  SVGDX_UNROLL
  for (int r = 0; r < R; ++r) {
    SVGDX_UNROLL
    for (int e = 0; e < 4; ++e) {
      // D - r.z = D + X_j.s - X_i.s - beta q, in which beta q is -2 ln 2 times the exponent.
      const float value = flushed_power_of_two(exponent[r][e]);
      const float rest = tile.constant[col0 + 2 * t + e % 2] - x_s[r].small[e] - x_s[r].big[e];
      rows.trace[r][e / 2] += value * (kTwiceLn2 * exponent[r][e] + rest);
      rows.kappa[r][e / 2] += value;
      kappa[r].set(e % 2 * 2 + e / 2, value);
    }
  }
  SVGDX_UNROLL
  for (int block = 0; block < P / 8; ++block) {
    if (P > 16 && 8 * block >= pairs.dim) continue;
    Split<2, Parts> y;
    SVGDX_UNROLL
    for (int e = 0; e < 2; ++e) y.set(e, tile.y[(col0 + 2 * t + e) * kStride + 8 * block + g]);
    SVGDX_UNROLL
    for (int r = 0; r < R; ++r) {
      float product[4] = {};
      mma_tf32(product, kappa[r].big, y.big);
      if constexpr (Parts == 2) {
        mma_tf32(rows.low[r][block], kappa[r].big, y.small);
        mma_tf32(rows.low[r][block], kappa[r].small, y.big);
      }
      SVGDX_UNROLL
      for (int e = 0; e < 4; ++e) rows.z[r][block][e] += product[e];
    }
  }
}

// Occupancy is below one half: a warp's rows and sums stay in registers.
template <int P, int R, int Parts>
__global__ void __launch_bounds__(kFusedThreads, 3)
    field_narrow_kernel(FieldArgs<float> args, FusedPlan plan, float* partial, bool wide, int64_t first_block) {
  using Tile = NarrowTile<P>;
  const Tile tile(16 * R);
  const FieldShape& shape = args.shape;
  const int dim = static_cast<int>(shape.dim);
  const FieldBlock block(plan, shape, first_block + blockIdx.x);
  const int row0 = plan.row0();
  const float beta = beta_of(args.bandwidth, block.batch);
  const float factor = beta * float(-0.5 * pair::kLog2E);
  const StoredFloats query = stored(args, args.query) + (block.batch * shape.rows + block.row0) * dim;
  for (int d = threadIdx.x; d < P; d += kFusedThreads) tile.centre[d] = d < dim ? query[d] : 0.0f;
  __syncthreads();
  for (int e = threadIdx.x; e < plan.rows_per_block() * Tile::kPacks; e += kFusedThreads) {
    const int row = e / Tile::kPacks;
    float centre[4];
    float v[4];
    FusedTile<P>::read(centre, tile.centre, e % Tile::kPacks, wide);
    FusedTile<P>::load(v, query + int64_t(row) * dim, e % Tile::kPacks, dim, row < block.rows, wide);
    SVGDX_UNROLL
    for (int w = 0; w < 4; ++w) v[w] = row < block.rows ? v[w] - centre[w] : 0.0f;
    FusedTile<P>::store(tile.x + row * Tile::kStride, v, e % Tile::kPacks, wide);
  }
  __syncthreads();
  NarrowRows<P, R, Parts> rows;
  rows.begin(tile.x + row0 * Tile::kStride, factor);
  NarrowPairs pairs{query + int64_t(row0) * dim, nullptr, nullptr, block.rows - row0, 0, dim, 0, beta, factor};
  for (int64_t j0 = block.col0; j0 < block.col1; j0 += Tile::kCols) {
    const int64_t from = (block.batch * shape.cols + j0) * dim;
    pairs.x = stored(args, args.x) + from;
    pairs.score = stored(args, args.score) + from;
    pairs.count = static_cast<int>(min(block.col1 - j0, int64_t(Tile::kCols)));
    const int64_t ahead = block.row0 + row0 - j0;
    pairs.self = args.self && ahead > kNoSelf && ahead < Tile::kCols ? static_cast<int>(ahead) : kNoSelf;
    __syncthreads();
    tile.load_columns(pairs.x, pairs.score, pairs.count, dim, beta, factor, wide);
    __syncthreads();
    if (pairs.rows <= 0) continue;
    SVGDX_UNROLL_BY(1)
    for (int col0 = 8 * plan.col_warp(); col0 < pairs.count; col0 += 8 * plan.col_warps()) {
      add_columns(rows, tile, pairs, col0);
    }
  }
  __syncthreads();
  const WarpSums warps{tile.x, tile.scalars, tile.scalars + kFusedWarps * 16 * R, tile.centre, Tile::kStride};
  SVGDX_UNROLL
  for (int r = 0; r < R; ++r) {
    warps.store<P>((threadIdx.x / 32 * R + r) * 16, [&](int n, int e) { return rows.z[r][n][e] + rows.low[r][n][e]; },
                   rows.trace[r], rows.kappa[r]);
  }
  __syncthreads();
  write_rows(warps, args, plan, block, beta, partial);
}

}  // namespace svgdx::cuda
