// The kernel of jacobian/cuda/matrix.h.
#pragma once

#include <type_traits>

#include "jacobian/cuda/gram_pairs.cuh"
#include "jacobian/cuda/matrix.h"

namespace svgdx::cuda {

constexpr int kMatrixThreads = 256;
constexpr int kMatrixWarps = kMatrixThreads / 32;

// Threads form a square of 16, each with kMicro x kMicro elements of A: pairs of adjacent ones, 32 rows or columns from
// each other. Columns j pass through shared memory in tiles: r_ij and kappa_ij z_ij, P numbers for each.
template <int P>
struct MatrixTile {
  static constexpr int kMicro = P / 16;
  static constexpr int kCols = P <= 64 ? 32 : 16;
  static constexpr int kOwn = P / 32;                    // numbers of a column that a lane loads
  static constexpr int kPerWarp = kCols / kMatrixWarps;  // columns that a warp loads
  using Packed = Pack<double, 2>;

  double *r, *z;  // (kCols, P)

  // A warp's threads are 4 x 8 of the square: eight of them read adjacent packs.
  __device__ static int row(int m) {
    return m / 2 * 32 + 2 * (int(threadIdx.x) / 64 * 4 + int(threadIdx.x) % 32 / 8) + m % 2;
  }
  __device__ static int col(int m) {
    return m / 2 * 32 + 2 * (int(threadIdx.x) / 32 % 2 * 8 + int(threadIdx.x) % 8) + m % 2;
  }

  // Loads columns [0, count) of the batch entry's particles from j0 on; returns the sum of their kappa_ij, j = i
  // excluded, over the warp's columns, in parts that its lanes hold.
  template <class T>
  __device__ double load(const JacobianArgs<T>& args, int64_t batch, int64_t own, int64_t j0, int count,
                         double beta) const {
    const int lane = threadIdx.x % 32, first = threadIdx.x / 32 * kPerWarp, dim = static_cast<int>(args.dim);
    const T* x_own = args.x + (batch * args.particles + own) * dim;
    const int64_t from = (batch * args.particles + j0) * dim;
    double difference[kPerWarp][kOwn], score[kPerWarp][kOwn];
    double log_kappa = 0;
    SVGDX_UNROLL
    for (int c = 0; c < kPerWarp; ++c) {
      double squared = 0;
      SVGDX_UNROLL
      for (int n = 0; n < kOwn; ++n) {
        const int d = lane + 32 * n;
        const bool inside = d < dim && first + c < count;
        const int64_t at = from + (first + c) * dim + d;
        difference[c][n] = inside ? double(x_own[d]) - double(args.x[at]) : 0;
        score[c][n] = inside ? double(args.score[at]) : 0;
        squared += difference[c][n] * difference[c][n];
      }
      squared = lane_sum(squared, 1, 32);
      if (lane == c) log_kappa = -0.5 * beta * squared;
    }
    // One exponential for all columns of the warp.
    const bool exists = lane < kPerWarp && first + lane < count;
    const double kappa = exists ? exp(log_kappa) : 0;
    SVGDX_UNROLL
    for (int c = 0; c < kPerWarp; ++c) {
      const double weight = __shfl_sync(kFullWarp, kappa, c);
      const double weight_beta = weight * beta;
      SVGDX_UNROLL
      for (int n = 0; n < kOwn; ++n) {
        const int at = (first + c) * P + lane + 32 * n;
        r[at] = difference[c][n];
        z[at] = weight * score[c][n] + weight_beta * difference[c][n];
      }
    }
    return j0 + first + lane == own ? 0 : kappa;
  }
};

// Adds kappa z r^T of a tile of columns.
template <int P>
__device__ inline void add_matrices(double (&sum)[P / 16][P / 16], const MatrixTile<P>& tile, int count) {
  using Tile = MatrixTile<P>;
  SVGDX_UNROLL_BY(1)
  for (int j = 0; j < count; ++j) {
    typename Tile::Packed z[Tile::kMicro / 2], r[Tile::kMicro / 2];
    SVGDX_UNROLL
    for (int m = 0; m < Tile::kMicro / 2; ++m) {
      z[m] = *reinterpret_cast<const typename Tile::Packed*>(tile.z + j * P + Tile::row(2 * m));
      r[m] = *reinterpret_cast<const typename Tile::Packed*>(tile.r + j * P + Tile::col(2 * m));
    }
    SVGDX_UNROLL
    for (int m = 0; m < Tile::kMicro; ++m) {
      SVGDX_UNROLL
      for (int n = 0; n < Tile::kMicro; ++n) sum[m][n] += z[m / 2].v[m % 2] * r[n / 2].v[n % 2];
    }
  }
}

// The thread's share of |A|_F^2 + (2/M) (A v).h + |h|^2 / M^2, from its elements of
// sum_j kappa z r^T; terms: h / M, then v.
template <int P>
__device__ inline double matrix_norm(const double (&sum)[P / 16][P / 16], const double (&terms)[2][P], int dim,
                                     double kappa, double beta_over_m) {
  using Tile = MatrixTile<P>;
  double total = 0;
  SVGDX_UNROLL
  for (int m = 0; m < Tile::kMicro; ++m) {
    const int row = Tile::row(m);
    const double h = terms[0][row];
    SVGDX_UNROLL
    for (int n = 0; n < Tile::kMicro; ++n) {
      const int col = Tile::col(n);
      const bool diagonal = row == col && row < dim;
      const double a = beta_over_m * ((diagonal ? kappa : 0) - sum[m][n]);
      total += a * (a + 2 * h * terms[1][col]);
      if (diagonal) total += h * h;
    }
  }
  return total;
}

// Occupancy is below one half from P = 64 on: 16 or 64 independent sums a thread hide the latency in place of other
// warps.
template <class T, int P>
__global__ void __launch_bounds__(kMatrixThreads)
    jacobian_matrix_kernel(JacobianArgs<T> args, Divider by_particles, int64_t first_block) {
  using Tile = MatrixTile<P>;
  SVGDX_SHARED_PACKS(double, r, Tile::kCols* P);
  SVGDX_SHARED_PACKS(double, z, Tile::kCols* P);
  SVGDX_SHARED(double, terms, 2, P);
  SVGDX_SHARED(double, shares, 2, kMatrixWarps);
  const int64_t item = first_block + blockIdx.x;
  int64_t batch = item;
  const int64_t own = by_particles.split(batch);
  const int warp = threadIdx.x / 32;
  const double beta = gram_beta(args.bandwidth, batch);
  const Tile tile{r, z};
  for (int d = threadIdx.x; d < P; d += kMatrixThreads) {
    const bool inside = args.hvp != nullptr && d < args.dim;
    terms[0][d] = inside ? double(args.hvp[item * args.dim + d]) / double(args.particles) : 0;
    terms[1][d] = inside ? double(args.probe[item * args.dim + d]) : 0;
  }
  double sum[Tile::kMicro][Tile::kMicro] = {};
  double kappa = 0;
  SVGDX_UNROLL_BY(1)
  for (int64_t j0 = 0; j0 < args.particles; j0 += Tile::kCols) {
    const int count = static_cast<int>(min(args.particles - j0, int64_t(Tile::kCols)));
    if (j0 != 0) __syncthreads();
    kappa += tile.load(args, batch, own, j0, count, beta);
    __syncthreads();
    add_matrices(sum, tile, count);
  }
  kappa = lane_sum(kappa, 1, 32);
  if (threadIdx.x % 32 == 0) shares[0][warp] = kappa;
  __syncthreads();
  kappa = 0;
  SVGDX_UNROLL
  for (int w = 0; w < kMatrixWarps; ++w) kappa += shares[0][w];
  const double norm =
      lane_sum(matrix_norm<P>(sum, terms, static_cast<int>(args.dim), kappa, beta / double(args.particles)), 1, 32);
  if (threadIdx.x % 32 == 0) shares[1][warp] = norm;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double total = 0;
  SVGDX_UNROLL
  for (int w = 0; w < kMatrixWarps; ++w) total += shares[1][w];
  args.out[item] = T(total);
}

template <class T>
void matrix_forward(const JacobianArgs<T>& args, void* stream) {
  const Divider by_particles(args.particles);
  const auto launch = [&](auto dims) {
    constexpr int P = decltype(dims)::value;
    launch_blocks(kGramOp, args.batch * args.particles, [&](unsigned grid, int64_t first) {
      SVGDX_LAUNCH((jacobian_matrix_kernel<T, P>), grid, kMatrixThreads, 0, stream, args, by_particles, first);
    });
  };
  const int dims = matrix_dims(args.dim);
  if (dims == 32) return launch(std::integral_constant<int, 32>());
  if (dims == 64) return launch(std::integral_constant<int, 64>());
  launch(std::integral_constant<int, 128>());
}

}  // namespace svgdx::cuda
