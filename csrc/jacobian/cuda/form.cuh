// Forms A_i = (beta/M) [ (sum_{j != i} kappa_ij) I - sum_j kappa_ij z_ij r_ij^T ] in registers, two rows per lane, and
// computes its determinant or inverse by Gauss-Jordan elimination among a particle's lanes.
#pragma once

#include "jacobian/cuda/tile.cuh"

namespace svgdx::cuda {

// Adds the columns of one tile to sum[m][d] = sum_j kappa z_row(m) r_d and to `kappa_sum`, which excludes `self`.
template <class T, int P, class Tiles>
__device__ inline void jacobian_tile(T (&sum)[2][P], T& kappa_sum, const Tiles& tiles, const JacobianThread<P>& thread,
                                     const T (&x)[P], const T (&x_own)[2], int count, int64_t self, T beta) {
  constexpr int kLanes = JacobianThread<P>::kLanes;
  const T scale = beta * T(-0.5 * pair::kLog2E);
  for (int base = 0; base < count; base += thread.group) {
    const int first = base + thread.slice * kLanes;
    const T own = tiles.kappa(x, first + thread.lane, count, scale);
    kappa_sum += first + thread.lane == self ? T(0) : own;
    SVGDX_UNROLL_BY(2)
    for (int k = 0; k < kLanes; ++k) {
      const int j = first + k;
      const T kappa = __shfl_sync(kFullWarp, own, k, kLanes);
      const T kappa_beta = kappa * beta;  // 0 for far pairs, if beta r overflows
      T r[P];
      tiles.difference(r, x, j);
      SVGDX_UNROLL
      for (int m = 0; m < 2; ++m) {
        const int at = thread.row(m) * Tiles::kPitch + j;
        const T weight = kappa * tiles.s[at] + kappa_beta * (x_own[m] - tiles.x[at]);
        SVGDX_UNROLL
        for (int d = 0; d < P; ++d) sum[m][d] += weight * r[d];
      }
    }
  }
}

// Adds up the slices and writes A to `a`.
template <class T, int P>
__device__ inline void finish_jacobian(T (&a)[2][P], T kappa_sum, const JacobianThread<P>& thread, int dim,
                                       T beta_over_m) {
  kappa_sum = lane_sum(kappa_sum, 1, thread.group);
  SVGDX_UNROLL
  for (int m = 0; m < 2; ++m) {
    SVGDX_UNROLL
    for (int d = 0; d < P; ++d) {
      const T sum = lane_sum(a[m][d], thread.kLanes, thread.group);
      const bool diagonal = d == thread.row(m) && d < dim;
      a[m][d] = beta_over_m * ((diagonal ? kappa_sum : T(0)) - sum);
    }
  }
}

// Forms A of the thread's particle; every thread of the block must call it.
template <class T, int P, class Tiles>
__device__ inline void form_jacobian(T (&a)[2][P], const JacobianArgs<T>& args, const JacobianThread<P>& thread,
                                     const Tiles& tiles, bool wide) {
  const int dim = static_cast<int>(args.dim);
  const T beta = beta_of(args.bandwidth, thread.batch);
  T x_own[2];
  T x[P];
  thread.load_own(x_own, args.x, args.particles, dim);
  thread.gather(x, x_own);
  tiles.clear();
  T kappa_sum = 0;
  for (int64_t j0 = 0; j0 < args.particles; j0 += kJacobianCols) {
    const int count = static_cast<int>(min(args.particles - j0, int64_t(kJacobianCols)));
    const int64_t from = (thread.batch * args.particles + j0) * dim;
    __syncthreads();
    tiles.load(args.x + from, args.score + from, count, dim, wide);
    __syncthreads();
    jacobian_tile(a, kappa_sum, tiles, thread, x, x_own, count, thread.first + thread.local - j0, beta);
  }
  finish_jacobian(a, kappa_sum, thread, dim, beta / static_cast<T>(args.particles));
}

// The unused row with the largest element in column k, the first one if tied; NaN counts as largest, so that it
// propagates. Every lane of the particle gets the same row.
template <class T, int P>
__device__ inline int pivot_row(const T (&n)[2][P], const bool (&used)[2], int k, const JacobianThread<P>& thread) {
  T best = -1;
  int row = 0;
  SVGDX_UNROLL
  for (int m = 0; m < 2; ++m) {
    const T size = n[m][k] == n[m][k] ? fabs(n[m][k]) : static_cast<T>(__builtin_inff());
    if (!used[m] && size > best) {
      best = size;
      row = thread.row(m);
    }
  }
  SVGDX_UNROLL
  for (int offset = 1; offset < thread.kLanes; offset *= 2) {
    const T other = __shfl_xor_sync(kFullWarp, best, offset);
    const int other_row = __shfl_xor_sync(kFullWarp, row, offset);
    if (other > best || (other == best && other_row < row)) {
      best = other;
      row = other_row;
    }
  }
  return row;
}

// log |det n|; overwrites n. Rows are not exchanged but marked as used.
template <class T, int P>
__device__ inline T log_abs_det(T (&n)[2][P], const JacobianThread<P>& thread) {
  constexpr int kLanes = JacobianThread<P>::kLanes;
  bool used[2] = {false, false};
  T sum = 0;
  SVGDX_UNROLL
  for (int k = 0; k < P; ++k) {
    const int pivot = pivot_row(n, used, k, thread);
    T row[P];
    SVGDX_UNROLL
    for (int d = k; d < P; ++d) {
      row[d] = __shfl_sync(kFullWarp, pivot < kLanes ? n[0][d] : n[1][d], pivot % kLanes, kLanes);
    }
    sum += log(fabs(row[k]));
    SVGDX_UNROLL
    for (int m = 0; m < 2; ++m) {
      used[m] = used[m] || thread.row(m) == pivot;
      const T factor = used[m] || row[k] == T(0) ? T(0) : n[m][k] / row[k];
      SVGDX_UNROLL
      for (int d = k + 1; d < P; ++d) n[m][d] -= factor * row[d];
    }
  }
  return sum;
}

// The layout of an inverse computed without exchanging rows: row m of the lane holds row step[m] of the inverse, and
// its element c belongs to column pivot(c).
struct InverseOrder {
  int step[2];
  unsigned long long pivots;  // 4 bits each
  __device__ int pivot(int c) const { return static_cast<int>(pivots >> (4 * c) & 15); }
};

// Inverts in place by Gauss-Jordan elimination.
template <class T, int P>
__device__ inline InverseOrder invert(T (&n)[2][P], const JacobianThread<P>& thread) {
  constexpr int kLanes = JacobianThread<P>::kLanes;
  InverseOrder order{};
  bool used[2] = {false, false};
  SVGDX_UNROLL
  for (int k = 0; k < P; ++k) {
    const int pivot = pivot_row(n, used, k, thread);
    order.pivots |= static_cast<unsigned long long>(pivot) << (4 * k);
    T row[P];
    SVGDX_UNROLL
    for (int d = 0; d < P; ++d) {
      row[d] = __shfl_sync(kFullWarp, pivot < kLanes ? n[0][d] : n[1][d], pivot % kLanes, kLanes);
    }
    const T inverse = T(1) / row[k];
    SVGDX_UNROLL
    for (int m = 0; m < 2; ++m) {
      const bool own = thread.row(m) == pivot;
      if (own) order.step[m] = k;
      used[m] = used[m] || own;
      const T factor = n[m][k] * inverse;
      SVGDX_UNROLL
      for (int d = 0; d < P; ++d) {
        if (d != k) n[m][d] = own ? row[d] * inverse : n[m][d] - factor * row[d];
      }
      n[m][k] = own ? inverse : -factor;
    }
  }
  return order;
}

}  // namespace svgdx::cuda
