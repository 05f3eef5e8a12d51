// Second backward pass of the Jacobian ops: particle k gathers from every j, as the row and as the column of a pair.
// With T_ij = (beta/M) kappa_ij [ tr B_i - z_ij . B_i r_ij ], r = r_kj = x_k - x_j, w = z_jk = s_k - beta r,
//   dL/dx_k = (beta/M) sum_j kappa { -beta r radial - beta (B_k + B_j) r - B_k^T z_kj + B_j^T w },
//   radial  = tr B_k + tr B_j - z_kj . B_k r + w . B_j r,     dL/ds_k = (beta/M) sum_j kappa B_j r.
// B_k is factored out of the sums. The terms of j = k cancel; they are excluded, so that they cancel exactly.
#pragma once

#include "jacobian/cuda/adjoint.cuh"

namespace svgdx::cuda {

// Columns per tile of the second pass, whose matrices must fit shared memory.
template <class T, int P>
constexpr int kGatherCols = P * sizeof(T) > 64 ? 16 : 32;

// The matrices of a tile of columns: pack q of row `row` of column j is at row * kRowPitch + q * kPackPitch + j. With
// these pitches, lanes that read different rows or fill neighbouring packs use different banks.
template <class T, int P>
struct MatrixTile {
  static constexpr int kCols = kGatherCols<T, P>;
  using Rows = RowTile<T, P, kCols>;
  using Packed = typename Rows::Packed;
  static constexpr int kWidth = Rows::kWidth;
  static constexpr int kPackPitch = kCols + 8 / Rows::kPacks % 8;
  static constexpr int kRowPitch = Rows::kPacks * kPackPitch + 1;
  static constexpr int kSize = P * kRowPitch;
  Packed* packs;
  T* trace;

  __device__ void clear() const {
    for (int e = threadIdx.x; e < kSize; e += blockDim.x) packs[e] = Packed{};
    for (int e = threadIdx.x; e < kCols; e += blockDim.x) trace[e] = 0;
  }
  __device__ void load(const T* from, int count, int dim, bool wide) const {
    const int width = wide && kWidth * sizeof(T) == 16 ? kWidth : 1;
    const int per_row = dim / width;
    for (RowWalk walk(threadIdx.x, blockDim.x, dim * per_row); walk.row < count; walk.advance()) {
      const int row = walk.d / per_row;
      const int d = walk.d % per_row * width;
      const T* source = from + (int64_t(walk.row) * dim + row) * dim + d;
      Packed* to = packs + row * kRowPitch + d / kWidth * kPackPitch + walk.row;
      if (width == 1) {
        reinterpret_cast<T*>(to)[d % kWidth] = *source;
      } else {
        *to = *reinterpret_cast<const Packed*>(source);
      }
    }
  }
  // Forms the traces of columns [0, count), after a barrier.
  __device__ void form_traces(int count, int dim) const {
    const int j = threadIdx.x;
    if (j >= count) return;
    T sum = 0;
    for (int d = 0; d < dim; ++d)
      sum += reinterpret_cast<const T*>(packs + d * kRowPitch + d / kWidth * kPackPitch + j)[d % kWidth];
    trace[j] = sum;
  }
};

template <class T, int P>
struct GatherRow {
  T x[P], matrix[2][P];  // the lane's two rows of B_k
  T x_own[2], s_own[2];
  T sum[P];                        // sum_j kappa (B_j^T w - beta r (w . B_j r - z . B_k r)), the lane's share
  T r_sum[2], z_sum[2], y_sum[2];  // sum_j kappa times r, z_kj, B_j r
  T trace_sum[2];                  // sum_j kappa tr B_j r
  T r_dot, squared;                // the lane's shares of sum_j r . (the pair's term of dL/dx_k), and sum_j kappa |r|^2
};

template <class T, int P, class Tiles>
__device__ inline void gather_pair(GatherRow<T, P>& row, const Tiles& tiles, const MatrixTile<T, P>& matrices,
                                   const JacobianThread<P>& thread, int j, T kappa, T beta_squared, T beta) {
  using Matrices = MatrixTile<T, P>;
  if (kappa == T(0)) return;  // beta r may overflow
  T r[P];
  tiles.difference(r, row.x, j);
  const T kappa_trace = kappa * matrices.trace[j];
  T dots = 0;  // w . B_j r - z . B_k r, the lane's share
  T r_products = 0;
  T r_own_squared = 0;
  SVGDX_UNROLL
  for (int m = 0; m < 2; ++m) {
    const int at = thread.row(m) * Tiles::kPitch + j;
    const T r_own = row.x_own[m] - tiles.x[at];
    const T z = tiles.s[at] + beta * r_own;
    const T w = row.s_own[m] - beta * r_own;
    T own_product = 0;
    T product = 0;
    SVGDX_UNROLL
    for (int c = 0; c < Matrices::Rows::kPacks; ++c) {
      const typename Matrices::Packed pack =
          matrices.packs[thread.row(m) * Matrices::kRowPitch + c * Matrices::kPackPitch + j];
      SVGDX_UNROLL
      for (int e = 0; e < Matrices::kWidth; ++e) {
        const int d = c * Matrices::kWidth + e;
        own_product += row.matrix[m][d] * r[d];
        product += pack.v[e] * r[d];
        row.sum[d] += kappa * w * pack.v[e];
      }
    }
    dots += w * product - z * own_product;
    r_products += r_own * (product + own_product);
    r_own_squared += r_own * r_own;
    row.r_sum[m] += kappa * r_own;
    row.z_sum[m] += kappa * z;
    row.y_sum[m] += kappa * product;
    row.trace_sum[m] += kappa_trace * r_own;
  }
  row.r_dot += kappa * (beta * (r_products + matrices.trace[j] * r_own_squared) + dots * (beta_squared - T(1)));
  row.squared += kappa * r_own_squared;
  const T radial = kappa * beta * dots;
  SVGDX_UNROLL
  for (int d = 0; d < P; ++d) row.sum[d] -= radial * r[d];
}

template <class T, int P, class Tiles>
__device__ inline void gather_tile(GatherRow<T, P>& row, const Tiles& tiles, const MatrixTile<T, P>& matrices,
                                   const JacobianThread<P>& thread, int count, int64_t self, T beta) {
  constexpr int kLanes = JacobianThread<P>::kLanes;
  const T scale = beta * T(-0.5 * pair::kLog2E);
  for (int base = 0; base < count; base += thread.group) {
    const int first = base + thread.slice * kLanes;
    const int j = first + thread.lane;
    const T squared = tiles.squared_distance(row.x, j);
    const T own = j == self || j >= count ? T(0) : power_of_two(scale * squared);
    SVGDX_UNROLL_BY(1)
    for (int k = 0; k < kLanes; ++k) {
      const T kappa = __shfl_sync(kFullWarp, own, k, kLanes);
      const T beta_squared = beta * __shfl_sync(kFullWarp, squared, k, kLanes);
      gather_pair(row, tiles, matrices, thread, first + k, kappa, beta_squared, beta);
    }
  }
}

// Adds up the slices, then the terms with B_k; dx and ds are the lane's elements of the gradients.
template <class T, int P>
__device__ inline void gather_finish(GatherRow<T, P>& row, const JacobianThread<P>& thread, T beta, T beta_over_m,
                                     T (&dx)[2], T (&ds)[2]) {
  constexpr int kLanes = JacobianThread<P>::kLanes;
  row.r_dot = lane_sum(row.r_dot, kLanes, thread.group);
  row.squared = lane_sum(row.squared, kLanes, thread.group);
  T trace = 0;
  SVGDX_UNROLL
  for (int m = 0; m < 2; ++m) {
    row.r_sum[m] = lane_sum(row.r_sum[m], kLanes, thread.group);
    row.z_sum[m] = lane_sum(row.z_sum[m], kLanes, thread.group);
    row.y_sum[m] = lane_sum(row.y_sum[m], kLanes, thread.group);
    row.trace_sum[m] = lane_sum(row.trace_sum[m], kLanes, thread.group);
    SVGDX_UNROLL
    for (int d = 0; d < P; ++d) trace += d == thread.row(m) ? row.matrix[m][d] : T(0);
  }
  trace = lane_sum(trace, 1, kLanes);
  row.r_dot += trace * (beta * row.squared);
  T r_all[P];
  thread.gather(r_all, row.r_sum);
  SVGDX_UNROLL
  for (int d = 0; d < P; ++d) {
    const T sum = lane_sum(row.sum[d], kLanes, thread.group);
    const T share = sum - row.matrix[0][d] * row.z_sum[0] - row.matrix[1][d] * row.z_sum[1];
    row.sum[d] = lane_sum(share, 1, kLanes);
  }
  thread.pick(dx, row.sum);
  SVGDX_UNROLL
  for (int m = 0; m < 2; ++m) {
    T product = 0;
    SVGDX_UNROLL
    for (int d = 0; d < P; ++d) product += row.matrix[m][d] * r_all[d];
    dx[m] = beta_over_m * (dx[m] - beta * (row.trace_sum[m] + trace * row.r_sum[m] + product + row.y_sum[m]));
    ds[m] = beta_over_m * row.y_sum[m];
  }
}

// Loads B_k from global memory through the tile of matrices.
template <class T, int P>
__device__ inline void load_own_matrix(GatherRow<T, P>& row, const T* adjoint, const MatrixTile<T, P>& matrices,
                                       const JacobianThread<P>& thread, int64_t particles, int dim, bool wide) {
  using Matrices = MatrixTile<T, P>;
  const T* from = adjoint + (thread.batch * particles + thread.first) * dim * dim;
  for (int k0 = 0; k0 < thread.count; k0 += Matrices::kCols) {
    __syncthreads();
    matrices.load(from + int64_t(k0) * dim * dim, min(thread.count - k0, Matrices::kCols), dim, wide);
    __syncthreads();
    const int j = thread.local - k0;
    if (!thread.active() || j < 0 || j >= Matrices::kCols) continue;
    SVGDX_UNROLL
    for (int m = 0; m < 2; ++m) {
      SVGDX_UNROLL
      for (int c = 0; c < Matrices::Rows::kPacks; ++c) {
        const auto pack = matrices.packs[thread.row(m) * Matrices::kRowPitch + c * Matrices::kPackPitch + j];
        SVGDX_UNROLL
        for (int e = 0; e < Matrices::kWidth; ++e) row.matrix[m][c * Matrices::kWidth + e] = pack.v[e];
      }
    }
  }
}

// euler is <B, A> on entry. The sum of x_k . dL/dx_k is half that of r . (the pair's term of dL/dx_k) over the pairs,
// which does not cancel between distant clusters.
template <class T, int P>
__device__ inline void gather_write(const JacobianGradArgs<T>& args, const JacobianThread<P>& thread,
                                    const GatherRow<T, P>& row, T beta_over_m, const T (&dx)[2], const T (&ds)[2]) {
  const int64_t particles = args.forward.particles;
  const int dim = static_cast<int>(args.forward.dim);
  T dot = T(0.5) * beta_over_m * row.r_dot;
  SVGDX_UNROLL
  for (int m = 0; m < 2; ++m) dot += row.s_own[m] * ds[m];
  dot = lane_sum(dot, 1, thread.kLanes);
  thread.store_own(dx, args.grad_x, particles, dim);
  thread.store_own(ds, args.grad_score, particles, dim);
  if (!thread.leads() || thread.lane != 0) return;
  T* euler = args.euler + thread.batch * particles + thread.first + thread.local;
  *euler = dot - 2 * *euler;
}

// Occupancy is below one half, as in jacobian_kernel: two rows of B_k and the sums stay in registers, and the columns'
// matrices also take much of the shared memory.
template <class T, int P>
__global__ void __launch_bounds__(kJacobianThreads, kJacobianBlocks<T, P>)
    jacobian_gather_kernel(JacobianGradArgs<T> args, JacobianPlan plan, bool wide, int64_t first_block) {
  using Matrices = MatrixTile<T, P>;
  using Tiles = ColumnTiles<T, P, Matrices::kCols>;
  using Packed = typename Tiles::Packed;
  SVGDX_SHARED(Packed, packs, Tiles::Rows::kSize);
  SVGDX_SHARED(T, tile_x, P * Tiles::kPitch);
  SVGDX_SHARED(T, tile_s, P * Tiles::kPitch);
  SVGDX_SHARED(Packed, tile_matrices, Matrices::kSize);
  SVGDX_SHARED(T, tile_trace, Matrices::kCols);
  const Tiles tiles{packs, tile_x, tile_s};
  const Matrices matrices{tile_matrices, tile_trace};
  const JacobianArgs<T>& forward = args.forward;
  const JacobianThread<P> thread(plan, forward.particles, first_block + blockIdx.x);
  const int dim = static_cast<int>(forward.dim);
  const T beta = beta_of(forward.bandwidth, thread.batch);

  tiles.clear();
  matrices.clear();
  GatherRow<T, P> row{};
  thread.load_own(row.x_own, forward.x, forward.particles, dim);
  thread.load_own(row.s_own, forward.score, forward.particles, dim);
  thread.gather(row.x, row.x_own);
  load_own_matrix(row, args.adjoint, matrices, thread, forward.particles, dim, wide);
  for (int64_t j0 = 0; j0 < forward.particles; j0 += Matrices::kCols) {
    const int count = static_cast<int>(min(forward.particles - j0, int64_t(Matrices::kCols)));
    const int64_t from = thread.batch * forward.particles + j0;
    __syncthreads();
    tiles.load(forward.x + from * dim, forward.score + from * dim, count, dim, wide);
    matrices.load(args.adjoint + from * dim * dim, count, dim, wide);
    __syncthreads();
    matrices.form_traces(count, dim);
    __syncthreads();
    gather_tile(row, tiles, matrices, thread, count, thread.first + thread.local - j0, beta);
  }
  T dx[2];
  T ds[2];
  const T beta_over_m = beta / static_cast<T>(forward.particles);
  gather_finish(row, thread, beta, beta_over_m, dx, ds);
  gather_write(args, thread, row, beta_over_m, dx, ds);
}

template <class T>
void jacobian_backward(const JacobianGradArgs<T>& args, void* stream) {
  const JacobianArgs<T>& forward = args.forward;
  if (forward.batch * forward.particles * forward.dim == 0) return;
  const bool wide = all_aligned(forward.dim, forward.x, forward.score, args.adjoint);
  const char* op = "jacobian_backward";
  dispatch_dims(forward.dim, [&](auto dims) {
    constexpr int P = decltype(dims)::kValue;
    const JacobianPlan first_pass = plan_jacobian(forward.batch, forward.particles, P / 2, kJacobianCols / (P / 2));
    launch_blocks(op, first_pass.blocks, [&](unsigned grid, int64_t first) {
      SVGDX_LAUNCH((jacobian_adjoint_kernel<T, P>), grid, kJacobianThreads, 0, stream, args, first_pass, wide, first);
    });
    const JacobianPlan second_pass =
        plan_jacobian(forward.batch, forward.particles, P / 2, kGatherCols<T, P> / (P / 2));
    launch_blocks(op, second_pass.blocks, [&](unsigned grid, int64_t first) {
      SVGDX_LAUNCH((jacobian_gather_kernel<T, P>), grid, kJacobianThreads, 0, stream, args, second_pass, wide, first);
    });
  });
}

}  // namespace svgdx::cuda
