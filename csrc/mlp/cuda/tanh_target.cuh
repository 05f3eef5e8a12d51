// The kernels of mlp/cuda/tanh_target.h.
#pragma once

#include "common/cuda/divider.cuh"
#include "common/cuda/row_group.cuh"
#include "mlp/cuda/math.cuh"
#include "mlp/cuda/tanh_target.h"

namespace svgdx::cuda {

template <class C>
__device__ inline C tanh_of(C u) {
  if constexpr (CudaMath<C>::kFloat)
    return ::tanhf(u);
  else
    return ::tanh(u);
}

// log(1 - tanh(u)^2) without cancellation.
template <class C>
__device__ inline C log_tanh_slope(C u) {
  const C size = u < C(0) ? -u : u;
  return C(2) * (C(0.6931471805599453) - size - CudaMath<C>::log1p(CudaMath<C>::exp(C(-2) * size)));
}

template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    tanh_target_begin_kernel(TanhTarget<C> args, int64_t first_block) {
  const int64_t e = (first_block + blockIdx.x) * kRowThreads + threadIdx.x;
  if (e >= args.rows * args.dim) return;
  const C a = tanh_of(args.u[e]);
  args.points[e] = a;
  if (args.probe != nullptr) args.points[args.rows * args.dim + e] = (C(1) - a * a) * args.probe[e];
}

template <class C>
void tanh_target_begin(const TanhTarget<C>& args, void* stream) {
  launch_blocks("mlp_tanh_target", ceil_div(args.rows * args.dim, kRowThreads), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((tanh_target_begin_kernel<C>), grid, kRowThreads, 0, stream, args, first);
  });
}

// A group of lanes per row.
template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    tanh_target_end_kernel(TanhTarget<C> args, RowPlan plan, int64_t first_block) {
  SVGDX_SHARED(C, partial, kRowWarps);
  const RowGroup group(plan);
  const int64_t r = (first_block + blockIdx.x) * plan.rows() + group.row, start = r * args.dim;
  const int64_t count = args.rows * args.dim;
  const bool exists = r < args.rows;
  const C inverse = C(1) / args.temperature[0];
  const C one = exists ? args.output[r] : C(0), other = exists ? args.output[args.rows + r] : C(0);
  const bool is_first = one <= other || one != one;
  const C* gradients = args.gradients + (is_first ? 0 : (1 + args.orders) * count);
  C log_slopes = 0, trace = 0;
  SVGDX_UNROLL_BY(1)
  for (int64_t d = group.lane; exists && d < args.dim; d += group.lanes) {
    const int64_t e = start + d;
    const C a = args.points[e], slope = C(1) - a * a, q = gradients[e];
    args.score[e] = slope * q * inverse - C(2) * a;
    log_slopes += log_tanh_slope(args.u[e]);
    if (args.gradient != nullptr) args.gradient[e] = q;
    if (args.probe == nullptr) continue;
    const C product = gradients[count + e], v = args.probe[e], diagonal = C(-2) * slope * (a * q * inverse + C(1));
    args.hvp[e] = slope * product * inverse + diagonal * v;
    trace += args.points[count + e] * product * inverse + diagonal;
    if (args.product != nullptr) args.product[e] = product;
    if (args.third != nullptr) args.third[e] = gradients[2 * count + e];
  }
  log_slopes = group.combine(log_slopes, Sum<C>(), partial);
  trace = group.combine(trace, Sum<C>(), partial);
  if (!exists || group.lane != 0) return;
  args.log_prob[r] = (is_first ? one : other) * inverse + log_slopes;
  if (args.trace != nullptr) args.trace[r] = trace;
  if (args.order != nullptr) args.order[r] = is_first ? 0 : ~0;
}

template <class C>
void tanh_target_end(const TanhTarget<C>& args, void* stream) {
  int bits = 0;
  while (bits < 5 && (1 << bits) < args.dim) ++bits;
  const RowPlan plan{bits};
  launch_blocks("mlp_tanh_target", ceil_div(args.rows, plan.rows()), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((tanh_target_end_kernel<C>), grid, kRowThreads, 0, stream, args, plan, first);
  });
}

// The gradient in q.
template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    tanh_target_back_begin_kernel(TanhTargetGrad<C> args, Divider by_dim, int64_t first_block) {
  const int64_t e = (first_block + blockIdx.x) * kRowThreads + threadIdx.x;
  if (e >= args.rows * args.dim) return;
  const C a = tanh_of(args.u[e]), slope = C(1) - a * a;
  C sum = args.grad_score == nullptr ? C(0) : args.grad_score[e];
  if (args.grad_trace != nullptr) sum -= C(2) * a * args.grad_trace[by_dim.quotient(e)];
  args.grad_gradient[e] = slope / args.temperature[0] * sum;
}

template <class C>
void tanh_target_back_begin(const TanhTargetGrad<C>& args, void* stream) {
  const Divider by_dim(args.dim);
  launch_blocks("mlp_tanh_target", ceil_div(args.rows * args.dim, kRowThreads), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((tanh_target_back_begin_kernel<C>), grid, kRowThreads, 0, stream, args, by_dim, first);
  });
}

template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    tanh_target_back_end_kernel(TanhTargetGrad<C> args, Divider by_dim, int64_t first_block) {
  const int64_t e = (first_block + blockIdx.x) * kRowThreads + threadIdx.x;
  if (e >= args.rows * args.dim) return;
  const int64_t r = by_dim.quotient(e);
  const C inverse = C(1) / args.temperature[0];
  const C a = tanh_of(args.u[e]), slope = C(1) - a * a, q = args.gradient[e] * inverse;
  C of_action = args.grad_product == nullptr ? C(0) : args.grad_product[e], of_slope = 0, of_u = 0;
  if (args.grad_score != nullptr) {
    const C g = args.grad_score[e];
    of_action -= C(2) * g;
    of_slope += g * q;
  }
  if (args.grad_trace != nullptr) {
    const C t = args.grad_trace[r];
    of_action += t * (inverse * args.third[e] - C(2) * slope * q);
    of_slope += t * (C(2) * inverse * args.probe[e] * args.product[e] - C(2) * (a * q + C(1)));
  }
  if (args.grad_log_prob != nullptr) {
    const C l = args.grad_log_prob[r];
    of_action += l * q;
    of_u -= C(2) * l * a;
  }
  args.grad_u[e] = of_u + slope * (of_action - C(2) * a * of_slope);
}

template <class C>
void tanh_target_back_end(const TanhTargetGrad<C>& args, void* stream) {
  const Divider by_dim(args.dim);
  launch_blocks("mlp_tanh_target", ceil_div(args.rows * args.dim, kRowThreads), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((tanh_target_back_end_kernel<C>), grid, kRowThreads, 0, stream, args, by_dim, first);
  });
}

}  // namespace svgdx::cuda
