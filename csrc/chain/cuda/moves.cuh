// The kernels of chain/moves.h: a group of lanes per particle.
#pragma once

#include "chain/moved.h"
#include "common/cuda/divider.cuh"
#include "common/cuda/row_group.cuh"
#include "common/cuda/warp.cuh"

namespace svgdx::cuda {

inline RowPlan plan_particles(int64_t dim) {
  int bits = 0;
  while (bits < 5 && (1 << bits) < dim) ++bits;
  return {bits};
}

// A particle's own pair: the kernel, and r.z; for every lane of its group.
template <class T>
struct OwnPair {
  T beta, kernel, r_dot_z;

  __device__ OwnPair(const MovedArgs<T>& args, const RowGroup& group, bool exists, int64_t b, int64_t row, T* partial) {
    beta = beta_of(args.bandwidth, exists ? b : 0);
    T square = 0, dot = 0;
    SVGDX_UNROLL_BY(1)
    for (int64_t d = group.lane; exists && d < args.dim; d += group.lanes) {
      const int64_t e = row * args.dim + d;
      const T r = args.query[e] - args.x[e];
      square += r * r;
      dot += r * args.score[e];
    }
    square = group.combine(square, Sum<T>(), partial);
    dot = group.combine(dot, Sum<T>(), partial);
    kernel = chain::own_kernel(beta, square);
    r_dot_z = dot + beta * square;
  }

  __device__ T phi(const MovedArgs<T>& args, int64_t e) const {
    const T query_score = args.query_score == nullptr ? T(0) : args.query_score[e];
    return chain::moved_phi(args.phi[e], query_score, kernel, beta, args.score[e], args.query[e] - args.x[e],
                            T(args.particles));
  }
};

template <class T>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    chain_moved_kernel(MovedArgs<T> args, RowPlan plan, Divider by_particles, int64_t first_block) {
  SVGDX_SHARED(T, partial, kRowWarps);
  const RowGroup group(plan);
  const int64_t row = (first_block + blockIdx.x) * plan.rows() + group.row;
  const bool exists = row < args.batch * args.particles;
  const OwnPair<T> own(args, group, exists, by_particles.quotient(exists ? row : 0), row, partial);
  if (!exists) return;
  SVGDX_UNROLL_BY(1)
  for (int64_t d = group.lane; d < args.dim; d += group.lanes) {
    args.phi[row * args.dim + d] = own.phi(args, row * args.dim + d);
  }
  if (args.trace == nullptr || group.lane != 0) return;
  args.trace[row] =
      chain::moved_trace(args.trace[row], own.kernel, own.beta, T(args.dim), own.r_dot_z, T(args.particles));
}

template <class T>
void chain_moved(const MovedArgs<T>& args, void* stream) {
  const RowPlan plan = plan_particles(args.dim);
  const Divider by_particles(std::max<int64_t>(1, args.particles));
  launch_blocks("chain_moved", ceil_div(args.batch * args.particles, plan.rows()), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((chain_moved_kernel<T>), grid, kRowThreads, 0, stream, args, plan, by_particles, first);
  });
}

template <class T>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    chain_inverse_kernel(InverseArgs<T> args, RowPlan plan, Divider by_particles, int64_t first_block) {
  SVGDX_SHARED(T, partial, kRowWarps);
  const RowGroup group(plan);
  const MovedArgs<T>& moved = args.moved;
  const int64_t row = (first_block + blockIdx.x) * plan.rows() + group.row;
  const bool exists = row < moved.batch * moved.particles;
  const int64_t b = by_particles.quotient(exists ? row : 0);
  const OwnPair<T> own(moved, group, exists, b, row, partial);
  if (!exists) return;
  const bool was_open = args.was_open == nullptr || *args.was_open != 0;
  bool is_open = false;
  SVGDX_UNROLL_BY(1)
  for (int64_t d = group.lane; d < moved.dim; d += group.lanes) {
    const int64_t e = row * moved.dim + d;
    const T y = moved.query[e], next = moved.x[e] - args.step[b] * own.phi(moved, e);
    const T error = was_open ? (next < y ? y - next : next - y) : args.error[e];
    args.next[e] = was_open ? next : y;
    args.next_error[e] = error;
    is_open |= error > args.limit[b];
  }
  if (is_open) atomicOr(args.is_open, 1);
}

template <class T>
void chain_inverse(const InverseArgs<T>& args, void* stream) {
  const RowPlan plan = plan_particles(args.moved.dim);
  const int64_t rows = args.moved.batch * args.moved.particles;
  const Divider by_particles(std::max<int64_t>(1, args.moved.particles));
  launch_blocks("chain_inverse", ceil_div(rows, plan.rows()), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((chain_inverse_kernel<T>), grid, kRowThreads, 0, stream, args, plan, by_particles, first);
  });
}

template <class T>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    chain_accept_kernel(AcceptArgs<T> args, RowPlan plan, int64_t first_block) {
  const RowGroup group(plan);
  const int64_t r = (first_block + blockIdx.x) * plan.rows() + group.row;
  if (r >= args.rows) return;
  const chain::Decision<T> decision = chain::decide(args, r);
  const T* from = chain::chosen(args, decision);
  SVGDX_UNROLL_BY(1)
  for (int64_t d = group.lane; d < args.dim; d += group.lanes) args.next[r * args.dim + d] = from[r * args.dim + d];
  if (group.lane != 0) return;
  args.change[r] = decision.change;
  args.accepted[r] = decision.accepted;
}

template <class T>
void chain_accept(const AcceptArgs<T>& args, void* stream) {
  const RowPlan plan = plan_particles(args.dim);
  launch_blocks("chain_accept", ceil_div(args.rows, plan.rows()), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((chain_accept_kernel<T>), grid, kRowThreads, 0, stream, args, plan, first);
  });
}

// Occupancy for double is 44 %: a decision with its derivatives, and exp and log1p, stay in registers.
template <class T>
__global__ void __launch_bounds__(kRowThreads, sizeof(T) == 8 ? kRowBlocks - 1 : kRowBlocks)
    chain_accept_back_kernel(AcceptGradArgs<T> args, RowPlan plan, int64_t first_block) {
  const RowGroup group(plan);
  const int64_t r = (first_block + blockIdx.x) * plan.rows() + group.row, dim = args.forward.dim;
  if (r >= args.forward.rows) return;
  const chain::Decision<T> decision = chain::decide(args.forward, r);
  SVGDX_UNROLL_BY(1)
  for (int64_t d = group.lane; d < dim; d += group.lanes) chain::share_gradient(args, decision, r * dim + d);
  if (group.lane == 0) chain::store_gradients(args, decision, r);
}

template <class T>
void chain_accept_backward(const AcceptGradArgs<T>& args, void* stream) {
  const RowPlan plan = plan_particles(args.forward.dim);
  launch_blocks("chain_accept_backward", ceil_div(args.forward.rows, plan.rows()), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((chain_accept_back_kernel<T>), grid, kRowThreads, 0, stream, args, plan, first);
  });
}

}  // namespace svgdx::cuda
