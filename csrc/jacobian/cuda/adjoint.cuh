// First backward pass of the Jacobian ops: B_i = dL/dA_i, and the gradients that depend on one particle only.
//   sqnorm: B = 2 w A + (2 w / M) h v^T            (w upstream, v probe, h = hvp)
//   logdet: B = w step N^{-T}, N = I + step J, J = A + H / M;  dstep = w tr(N^{-1} J), dH = B / M
#pragma once

#include "jacobian/cuda/forward.cuh"

namespace svgdx::cuda {

template <class T, int P>
__device__ inline void store_matrices(const T* matrices, T* to, const JacobianThread<P>& thread, int64_t particles,
                                      int dim, T scale) {
  T* start = to + (thread.batch * particles + thread.first) * dim * dim;
  for (int e = threadIdx.x; e < thread.count * dim * dim; e += kJacobianThreads) start[e] = scale * matrices[e];
}

// Writes the lane's two rows of its particle's matrix; all slices hold the same rows, and the first one writes.
template <class T, int P>
__device__ inline void write_own_rows(T* matrices, const T (&a)[2][P], const JacobianThread<P>& thread, int dim) {
  SVGDX_UNROLL
  for (int m = 0; m < 2; ++m) {
    SVGDX_UNROLL
    for (int d = 0; d < P; ++d) {
      if (thread.leads() && thread.row(m) < dim && d < dim) {
        matrices[(thread.local * dim + thread.row(m)) * dim + d] = a[m][d];
      }
    }
  }
}

// The lane's share of tr(N^{-1} X) = sum_kp N^{-1}[k][p] X[p][k], with X in `matrices`.
template <class T, int P>
__device__ inline T inverse_dot(const T (&inverse)[2][P], const InverseOrder& order, const T* matrices,
                                const JacobianThread<P>& thread, int dim) {
  T sum = 0;
  if (!thread.active()) return sum;
  SVGDX_UNROLL
  for (int m = 0; m < 2; ++m) {
    SVGDX_UNROLL
    for (int c = 0; c < P; ++c) {
      const int p = order.pivot(c);
      if (order.step[m] < dim && p < dim)
        sum += inverse[m][c] * matrices[(thread.local * dim + p) * dim + order.step[m]];
    }
  }
  return sum;
}

// Writes N^{-T} to `matrices`.
template <class T, int P>
__device__ inline void write_inverse(T* matrices, const T (&inverse)[2][P], const InverseOrder& order,
                                     const JacobianThread<P>& thread, int dim) {
  if (!thread.leads()) return;
  SVGDX_UNROLL
  for (int m = 0; m < 2; ++m) {
    SVGDX_UNROLL
    for (int c = 0; c < P; ++c) {
      const int p = order.pivot(c);
      if (order.step[m] < dim && p < dim) matrices[(thread.local * dim + p) * dim + order.step[m]] = inverse[m][c];
    }
  }
}

// Writes B to `matrices` and returns the particle's <B, A>. Every thread of the block must call it.
template <class T, int P>
__device__ inline T logdet_adjoint(const JacobianGradArgs<T>& args, const JacobianThread<P>& thread, T (&a)[2][P],
                                   T* matrices, T w) {
  const JacobianArgs<T>& forward = args.forward;
  const int dim = static_cast<int>(forward.dim);
  const T over_m = T(1) / static_cast<T>(forward.particles);
  const T step = forward.step[thread.batch];
  const bool hessian = forward.hessian != nullptr;
  if (hessian) load_matrices(matrices, forward.hessian, thread, forward.particles, dim);
  __syncthreads();
  T n[2][P];
  update_matrix(n, a, hessian ? matrices : nullptr, thread, dim, step, over_m);
  const InverseOrder order = invert(n, thread);
  T dot_h = 0;
  if (hessian) dot_h = lane_sum(inverse_dot(n, order, matrices, thread, dim), 1, thread.kLanes);
  __syncthreads();
  write_own_rows(matrices, a, thread, dim);
  __syncthreads();
  const T dot_a = lane_sum(inverse_dot(n, order, matrices, thread, dim), 1, thread.kLanes);
  __syncthreads();
  SVGDX_UNROLL
  for (int m = 0; m < 2; ++m) {
    SVGDX_UNROLL
    for (int d = 0; d < P; ++d) n[m][d] *= w * step;
  }
  write_inverse(matrices, n, order, thread, dim);
  const int64_t index = thread.batch * forward.particles + thread.first + thread.local;
  if (args.grad_step != nullptr && thread.leads() && thread.lane == 0) {
    args.grad_step[index] = w * (dot_a + over_m * dot_h);
  }
  return w * step * dot_a;
}

// The same for svgd_jacobian_sqnorm.
template <class T, int P>
__device__ inline T sqnorm_adjoint(const JacobianGradArgs<T>& args, const JacobianThread<P>& thread, T (&a)[2][P],
                                   T* matrices, T w) {
  const JacobianArgs<T>& forward = args.forward;
  const int dim = static_cast<int>(forward.dim);
  const T over_m = T(1) / static_cast<T>(forward.particles);
  T own[2];
  T hvp[2];
  T probe[P];
  thread.load_own(own, forward.probe, forward.particles, dim);
  thread.load_own(hvp, forward.hvp, forward.particles, dim);
  thread.gather(probe, own);
  T grad_probe[P] = {};
  T grad_hvp[2];
  T dot = 0;
  SVGDX_UNROLL
  for (int m = 0; m < 2; ++m) {
    T product = 0;
    SVGDX_UNROLL
    for (int d = 0; d < P; ++d) {
      product += a[m][d] * probe[d];
      grad_probe[d] += 2 * w * over_m * a[m][d] * hvp[m];
      const T adjoint = 2 * w * (a[m][d] + over_m * hvp[m] * probe[d]);
      dot += adjoint * a[m][d];
      a[m][d] = adjoint;
    }
    grad_hvp[m] = 2 * w * over_m * (product + over_m * hvp[m]);
  }
  if (args.grad_hvp != nullptr) thread.store_own(grad_hvp, args.grad_hvp, forward.particles, dim);
  if (args.grad_probe != nullptr) {
    SVGDX_UNROLL
    for (int d = 0; d < P; ++d) grad_probe[d] = lane_sum(grad_probe[d], 1, thread.kLanes);
    thread.pick(own, grad_probe);
    thread.store_own(own, args.grad_probe, forward.particles, dim);
  }
  write_own_rows(matrices, a, thread, dim);
  return lane_sum(dot, 1, thread.kLanes);
}

// euler holds <B, A> until the second pass. Occupancy is below one half because of the matrix, as in jacobian_kernel.
template <class T, int P>
__global__ void __launch_bounds__(kJacobianThreads, kJacobianBlocks<T, P>)
    jacobian_adjoint_kernel(JacobianGradArgs<T> args, JacobianPlan plan, bool wide, int64_t first_block) {
  using Tiles = ColumnTiles<T, P, kJacobianCols>;
  using Packed = typename Tiles::Packed;
  SVGDX_SHARED(Packed, packs, Tiles::Rows::kSize);
  SVGDX_SHARED(T, tile_x, P * Tiles::kPitch);
  SVGDX_SHARED(T, tile_s, P * Tiles::kPitch);
  SVGDX_SHARED(T, matrices, kMatrixElements<T, P>);
  const JacobianArgs<T>& forward = args.forward;
  const JacobianThread<P> thread(plan, forward.particles, first_block + blockIdx.x);
  const int dim = static_cast<int>(forward.dim);
  const int64_t index = thread.batch * forward.particles + thread.first + thread.local;
  T a[2][P] = {};
  form_jacobian(a, forward, thread, Tiles{packs, tile_x, tile_s}, wide);
  const T w = thread.active() ? args.grad_out[index] : T(0);
  const T dot =
      !forward.step ? sqnorm_adjoint(args, thread, a, matrices, w) : logdet_adjoint(args, thread, a, matrices, w);
  if (thread.leads() && thread.lane == 0) args.euler[index] = dot;
  __syncthreads();
  store_matrices(matrices, args.adjoint, thread, forward.particles, dim, T(1));
  if (args.grad_hessian != nullptr) {
    store_matrices(matrices, args.grad_hessian, thread, forward.particles, dim,
                   T(1) / static_cast<T>(forward.particles));
  }
}

}  // namespace svgdx::cuda
