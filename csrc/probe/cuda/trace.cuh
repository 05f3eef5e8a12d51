// probe_trace and its gradient: one group of lanes per point, probe by probe.
#pragma once

#include "common/cuda/columns.cuh"
#include "common/cuda/half.cuh"
#include "probe/args.h"
#include "probe/estimate.h"

namespace svgdx::cuda {

// The product of one probe at point n. Every thread of the block must call it; those of the point's group get the
// result.
template <class S, class Args>
__device__ inline Compute<S> probe_product(const Args& args, const ColumnPlan& plan, const RowGroup& group, int64_t v,
                                           int64_t n, Compute<S>* partial) {
  Compute<S> sum = 0;
  const int64_t start = (v * args.points + n) * args.dim;
  SVGDX_UNROLL_BY(1)
  for (int64_t chunk = 0; n < args.points && chunk < plan.chunks; ++chunk) {
    const Columns<S> at(plan, group.lane, chunk);
    const auto probe = at.load(args.probe + start), hvp = at.load(args.hvp + start);
    SVGDX_UNROLL
    for (int w = 0; w < Columns<S>::kWidth; ++w) sum += to_compute(probe.v[w]) * to_compute(hvp.v[w]);
  }
  return group.combine(sum, Sum<Compute<S>>(), partial);
}

template <class C>
struct Moments {
  C mean = 0, squares = 0;
};

template <class S, class Args>
__device__ inline Moments<Compute<S>> probe_moments(const Args& args, const ColumnPlan& plan, const RowGroup& group,
                                                    int64_t n, Compute<S>* partial) {
  Moments<Compute<S>> moments;
  SVGDX_UNROLL_BY(1)
  for (int64_t v = 0; v < args.probes; ++v) {
    add_to_moments(probe_product<S>(args, plan, group, v, n, partial), v, moments.mean, moments.squares);
  }
  return moments;
}

template <class S>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    probe_trace_kernel(ProbeTraceArgs<S> args, ColumnPlan plan, int64_t first_block) {
  using C = Compute<S>;
  SVGDX_SHARED(C, partial, kRowWarps);
  const RowGroup group(plan.rows);
  const int64_t n = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const auto moments = probe_moments<S>(args, plan, group, n, partial);
  if (n >= args.points || group.lane != 0) return;
  args.mean[n] = moments.mean;
  args.variance[n] = sample_variance(moments.squares, args.probes);
}

template <class S>
__device__ inline void write_scaled(const Columns<S>& at, Compute<S> factor, const S* from, S* to) {
  auto pack = at.load(from);
  SVGDX_UNROLL
  for (int w = 0; w < Columns<S>::kWidth; ++w) pack.v[w] = to_storage<S>(factor * to_compute(pack.v[w]));
  at.store(to, pack);
}

template <class S>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    probe_trace_backward_kernel(ProbeTraceGradArgs<S> args, ColumnPlan plan, int64_t first_block) {
  using C = Compute<S>;
  SVGDX_SHARED(C, partial, kRowWarps);
  const RowGroup group(plan.rows);
  const int64_t n = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const bool exists = n < args.points, of_variance = args.grad_variance != nullptr;
  const C common = exists && args.grad_mean != nullptr ? mean_grad(args.probes, args.grad_mean[n]) : C(0);
  const C upstream = exists && of_variance ? args.grad_variance[n] : C(0);
  C mean = 0;
  if (of_variance) mean = probe_moments<S>(args, plan, group, n, partial).mean;
  SVGDX_UNROLL_BY(1)
  for (int64_t v = 0; v < args.probes; ++v) {
    C grad = common;
    if (of_variance) {
      const C value = probe_product<S>(args, plan, group, v, n, partial);
      grad += variance_grad(value, mean, args.probes, upstream);
    }
    const int64_t start = (v * args.points + n) * args.dim;
    SVGDX_UNROLL_BY(1)
    for (int64_t chunk = 0; exists && chunk < plan.chunks; ++chunk) {
      const Columns<S> at(plan, group.lane, chunk);
      write_scaled(at, grad, args.probe + start, args.grad_hvp + start);
      write_scaled(at, grad, args.hvp + start, args.grad_probe + start);
    }
  }
}

template <class S>
void probe_trace(const ProbeTraceArgs<S>& args, void* stream) {
  const bool wide = all_aligned(args.dim, args.probe, args.hvp);
  const ColumnPlan plan = plan_columns<S>(args.dim, wide, row_lanes<S>(args.dim, wide));
  launch_blocks("probe_trace", plan.row_blocks(args.points), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((probe_trace_kernel<S>), grid, kRowThreads, 0, stream, args, plan, first);
  });
}

template <class S>
void probe_trace_backward(const ProbeTraceGradArgs<S>& args, void* stream) {
  const bool wide = all_aligned(args.dim, args.probe, args.hvp, args.grad_probe, args.grad_hvp);
  const ColumnPlan plan = plan_columns<S>(args.dim, wide, row_lanes<S>(args.dim, wide));
  launch_blocks("probe_trace_backward", plan.row_blocks(args.points), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((probe_trace_backward_kernel<S>), grid, kRowThreads, 0, stream, args, plan, first);
  });
}

}  // namespace svgdx::cuda
