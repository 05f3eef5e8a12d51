// Forward pass of svgd_jacobian_sqnorm and svgd_logdet.
#pragma once

#include "jacobian/cuda/form.cuh"

namespace svgdx::cuda {

// The D x D matrices of a block's particles in shared memory, in the layout of global memory.
template <class T, int P>
constexpr int kMatrixElements = kJacobianThreads / (P / 2) * P * P;

template <class T, int P>
__device__ inline void load_matrices(T* matrices, const T* from, const JacobianThread<P>& thread, int64_t particles,
                                     int dim) {
  const T* start = from + (thread.batch * particles + thread.first) * dim * dim;
  for (int e = threadIdx.x; e < thread.count * dim * dim; e += kJacobianThreads) matrices[e] = start[e];
}

// n = I + step (A + H / M), padded with the identity.
template <class T, int P>
__device__ inline void update_matrix(T (&n)[2][P], const T (&a)[2][P], const T* matrices,
                                     const JacobianThread<P>& thread, int dim, T step, T over_m) {
  SVGDX_UNROLL
  for (int m = 0; m < 2; ++m) {
    const int row = thread.row(m);
    SVGDX_UNROLL
    for (int d = 0; d < P; ++d) {
      T j = a[m][d];
      if (matrices != nullptr && thread.active() && row < dim && d < dim) {
        j += over_m * matrices[(thread.local * dim + row) * dim + d];
      }
      n[m][d] = (d == row ? T(1) : T(0)) + step * j;
    }
  }
}

// The lane's share of |A|_F^2 + (2/M) (A v).h + |h|^2 / M^2.
template <class T, int P>
__device__ inline T squared_norm(const T (&a)[2][P], const T (&probe)[P], const T (&hvp)[2], T over_m) {
  T sum = 0;
  SVGDX_UNROLL
  for (int m = 0; m < 2; ++m) {
    T product = 0;
    SVGDX_UNROLL
    for (int d = 0; d < P; ++d) {
      sum += a[m][d] * a[m][d];
      product += a[m][d] * probe[d];
    }
    sum += over_m * hvp[m] * (2 * product + over_m * hvp[m]);
  }
  return sum;
}

// Occupancy is below one half from P = 4 on: two matrix rows per lane stay in registers, and the 2 P independent sums
// hide the latency in place of other warps.
template <class T, int P>
__global__ void __launch_bounds__(kJacobianThreads, kJacobianBlocks<T, P>)
    jacobian_kernel(JacobianArgs<T> args, JacobianPlan plan, bool wide, int64_t first_block) {
  using Tiles = ColumnTiles<T, P, kJacobianCols>;
  using Packed = typename Tiles::Packed;
  SVGDX_SHARED(Packed, packs, Tiles::Rows::kSize);
  SVGDX_SHARED(T, tile_x, P * Tiles::kPitch);
  SVGDX_SHARED(T, tile_s, P * Tiles::kPitch);
  SVGDX_SHARED(T, matrices, kMatrixElements<T, P>);
  const JacobianThread<P> thread(plan, args.particles, first_block + blockIdx.x);
  const int dim = static_cast<int>(args.dim);
  const T over_m = T(1) / static_cast<T>(args.particles);
  T a[2][P] = {};
  form_jacobian(a, args, thread, Tiles{packs, tile_x, tile_s}, wide);
  T result;
  if (!args.step) {
    T own[2];
    T probe[P];
    T hvp[2];
    thread.load_own(own, args.probe, args.particles, dim);
    thread.load_own(hvp, args.hvp, args.particles, dim);
    thread.gather(probe, own);
    result = lane_sum(squared_norm(a, probe, hvp, over_m), 1, thread.kLanes);
  } else {
    if (args.hessian != nullptr) load_matrices(matrices, args.hessian, thread, args.particles, dim);
    __syncthreads();
    T n[2][P];
    update_matrix(n, a, args.hessian == nullptr ? nullptr : matrices, thread, dim, args.step[thread.batch], over_m);
    result = log_abs_det(n, thread);
  }
  if (thread.leads() && thread.lane == 0)
    args.out[thread.batch * args.particles + thread.first + thread.local] = result;
}

template <class T>
void jacobian_forward(const JacobianArgs<T>& args, void* stream) {
  if (args.batch * args.particles * args.dim == 0) return;
  const bool wide = all_aligned(args.dim, args.x, args.score);
  dispatch_dims(args.dim, [&](auto dims) {
    constexpr int P = decltype(dims)::kValue;
    const JacobianPlan plan = plan_jacobian(args.batch, args.particles, P / 2, kJacobianCols / (P / 2));
    launch_blocks("jacobian_forward", plan.blocks, [&](unsigned grid, int64_t first) {
      SVGDX_LAUNCH((jacobian_kernel<T, P>), grid, kJacobianThreads, 0, stream, args, plan, wide, first);
    });
  });
}

}  // namespace svgdx::cuda
