// The kernels of mlp/cuda/twin.h. A group of lanes takes a row, or a part of it; twin_head_kernel sums over a row.
#pragma once

#include "common/cuda/columns.cuh"
#include "mlp/cuda/math.cuh"
#include "mlp/cuda/twin.h"
#include "mlp/curves.h"

namespace svgdx::cuda {

// The values of one pack of a layer's units in row r.
template <class C>
__device__ inline WidePack<C> twin_values(const TwinLayer<C>& args, const Divider& by_group, int64_t r,
                                          const Columns<C>& at) {
  auto z = at.load(args.product + r * args.width);
  const auto shift = at.load(args.shift + by_group.quotient(r) * args.pitch);
  with_curves(args.activation, [&](auto tag) {
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<C>; ++w) {
      z.v[w] = activation_jet<decltype(tag)::kind, CudaMath<C>>(z.v[w] + shift.v[w]).value;
    }
  });
  return z;
}

// Multiplies a pack by the slopes at the units whose values are `value`.
template <class C>
__device__ inline void multiply_by_slopes(WidePack<C>& pack, Activation activation, const WidePack<C>& value) {
  with_curves(activation, [&](auto tag) {
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<C>; ++w) pack.v[w] *= curves<decltype(tag)::kind, CudaMath<C>>(value.v[w]).slope;
  });
}

template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    twin_layer_kernel(TwinLayer<C> args, ColumnPlan plan, Divider by_group, int64_t first_block) {
  const RowGroup group(plan.rows);
  int64_t r = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const Columns<C> at(plan, group.lane, plan.by_chunks.split(r));
  if (r >= 2 * args.rows) return;
  at.store(args.value + r * args.width, twin_values(args, by_group, r, at));
}

template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    twin_head_kernel(TwinLayer<C> args, ColumnPlan plan, Divider by_group, Divider by_rows, int64_t first_block) {
  SVGDX_SHARED(C, partial, kRowWarps);
  const RowGroup group(plan.rows);
  const int64_t r = (first_block + blockIdx.x) * plan.rows.rows() + group.row, start = r * args.width;
  const bool exists = r < 2 * args.rows;
  const C* head = args.head + (exists ? by_rows.quotient(r) : 0) * args.head_pitch;
  C sum = 0;
  SVGDX_UNROLL_BY(1)
  for (int64_t chunk = 0; exists && chunk < plan.chunks; ++chunk) {
    const Columns<C> at(plan, group.lane, chunk);
    const auto value = twin_values(args, by_group, r, at);
    auto weight = at.load(head);
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<C>; ++w) sum += weight.v[w] * value.v[w];
    if (args.value != nullptr) at.store(args.value + start, value);
    if (args.grad == nullptr) continue;
    multiply_by_slopes(weight, args.activation, value);
    at.store(args.grad + start, weight);
  }
  sum = group.combine(sum, Sum<C>(), partial);
  if (exists && group.lane == 0) args.output[r] = sum + head[args.width];
}

template <class C>
void twin_layer(const TwinLayer<C>& args, void* stream) {
  const bool head = args.head != nullptr;
  const bool wide = is_aligned(args.product, args.width) && is_aligned(args.shift, args.width) &&
                    is_aligned(args.shift, args.pitch) && is_aligned(args.value, args.width) &&
                    is_aligned(args.grad, args.width) && is_aligned(args.head, head ? args.head_pitch : 0);
  const int lanes = head ? row_lanes<C>(args.width, wide) : chunk_lanes<C>(args.width, wide);
  const ColumnPlan plan = plan_columns<C>(args.width, wide, lanes);
  const Divider by_group(args.group), by_rows(std::max<int64_t>(1, args.rows));
  const int64_t blocks = head ? plan.row_blocks(2 * args.rows) : plan.chunk_blocks(2 * args.rows);
  launch_blocks("mlp_minimum", blocks, [&](unsigned grid, int64_t first) {
    if (head) {
      SVGDX_LAUNCH((twin_head_kernel<C>), grid, kRowThreads, 0, stream, args, plan, by_group, by_rows, first);
    } else {
      SVGDX_LAUNCH((twin_layer_kernel<C>), grid, kRowThreads, 0, stream, args, plan, by_group, first);
    }
  });
}

// Treats all rows as one.
template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    twin_back_kernel(TwinBack<C> args, ColumnPlan plan, int64_t first_block) {
  const RowGroup group(plan.rows);
  const Columns<C> at(plan, group.lane, (first_block + blockIdx.x) * plan.rows.rows() + group.row);
  auto grad = at.load(args.grad);
  multiply_by_slopes(grad, args.activation, at.load(args.value));
  at.store(args.out, grad);
}

template <class C>
void twin_back(const TwinBack<C>& args, void* stream) {
  const int64_t count = 2 * args.rows * args.width;
  const bool wide = is_aligned(args.value, count) && is_aligned(args.grad, count) && is_aligned(args.out, count);
  const ColumnPlan plan = plan_columns<C>(count, wide, 5);
  launch_blocks("mlp_minimum", plan.chunk_blocks(1), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((twin_back_kernel<C>), grid, kRowThreads, 0, stream, args, plan, first);
  });
}

// Where the derivatives of row r of network k are in an array (2, orders, N, width); those of the second order are
// N * width further.
template <class C>
__device__ inline int64_t twin_start(const TwinAlong<C>& args, int64_t k, int64_t r, int orders) {
  return (k * (orders - 1) * args.rows + r) * args.width;
}

template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    twin_along_kernel(TwinAlong<C> args, ColumnPlan plan, Divider by_rows, int64_t first_block) {
  const RowGroup group(plan.rows);
  int64_t r = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const Columns<C> at(plan, group.lane, plan.by_chunks.split(r));
  if (r >= 2 * args.rows) return;
  const int64_t k = by_rows.quotient(r), further = args.rows * args.width;
  const C* h = args.h + twin_start(args, k, r, args.given);
  C* out = args.out + twin_start(args, k, r, args.orders);
  const auto value = at.load(args.value + r * args.width);
  auto one = at.load(h);
  WidePack<C> two{};
  if (args.given > 1) two = at.load(h + further);
  with_curves(args.activation, [&](auto tag) {
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<C>; ++w) {
      const auto d = curves<decltype(tag)::kind, CudaMath<C>>(value.v[w]);
      two.v[w] = d.second * one.v[w] * one.v[w] + d.slope * two.v[w];
      one.v[w] *= d.slope;
    }
  });
  at.store(out, one);
  if (args.orders > 1) at.store(out + further, two);
}

// d/dt of a'(z) g is a'' h' g + a' g', and of that a''' h'^2 g + a'' h'' g + 2 a'' h' g' + a' g''.
template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    twin_along_back_kernel(TwinAlong<C> args, ColumnPlan plan, Divider by_rows, int64_t first_block) {
  const RowGroup group(plan.rows);
  int64_t r = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const Columns<C> at(plan, group.lane, plan.by_chunks.split(r));
  if (r >= 2 * args.rows) return;
  const int64_t k = by_rows.quotient(r), further = args.rows * args.width;
  const C* h = args.h + twin_start(args, k, r, args.given);
  const int64_t start = twin_start(args, k, r, args.orders);
  const auto value = at.load(args.value + r * args.width);
  const auto g = at.load(args.back != nullptr ? args.back + r * args.width : args.head + k * args.head_pitch);
  auto one = at.load(h);
  WidePack<C> two{}, grad_one{}, grad_two{};
  if (args.given > 1) two = at.load(h + further);
  if (args.grad != nullptr) {
    grad_one = at.load(args.grad + start);
    if (args.orders > 1) grad_two = at.load(args.grad + start + further);
  }
  with_curves(args.activation, [&](auto tag) {
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<C>; ++w) {
      const auto d = curves<decltype(tag)::kind, CudaMath<C>>(value.v[w]);
      const C bend = d.second * one.v[w], third = d.third * one.v[w] * one.v[w] + d.second * two.v[w];
      two.v[w] = g.v[w] * third + C(2) * bend * grad_one.v[w] + d.slope * grad_two.v[w];
      one.v[w] = g.v[w] * bend + d.slope * grad_one.v[w];
    }
  });
  at.store(args.out + start, one);
  if (args.orders > 1) at.store(args.out + start + further, two);
}

template <class C, class Launch>
void launch_along(const TwinAlong<C>& args, const Launch& launch) {
  const bool wide = is_aligned(args.value, args.width) && is_aligned(args.h, args.width) &&
                    is_aligned(args.out, args.width) && is_aligned(args.back, args.width) &&
                    is_aligned(args.head, args.head_pitch) && is_aligned(args.grad, args.width);
  const ColumnPlan plan = plan_columns<C>(args.width, wide, chunk_lanes<C>(args.width, wide));
  const Divider by_rows(std::max<int64_t>(1, args.rows));
  launch_blocks("mlp_along", plan.chunk_blocks(2 * args.rows),
                [&](unsigned grid, int64_t first) { launch(grid, first, plan, by_rows); });
}

template <class C>
void twin_along(const TwinAlong<C>& args, void* stream) {
  launch_along(args, [&](unsigned grid, int64_t first, const ColumnPlan& plan, const Divider& by_rows) {
    SVGDX_LAUNCH((twin_along_kernel<C>), grid, kRowThreads, 0, stream, args, plan, by_rows, first);
  });
}

template <class C>
void twin_along_back(const TwinAlong<C>& args, void* stream) {
  launch_along(args, [&](unsigned grid, int64_t first, const ColumnPlan& plan, const Divider& by_rows) {
    SVGDX_LAUNCH((twin_along_back_kernel<C>), grid, kRowThreads, 0, stream, args, plan, by_rows, first);
  });
}

template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    twin_minimum_kernel(TwinMinimum<C> args, Divider by_dim, int64_t first_block) {
  const int64_t e = (first_block + blockIdx.x) * kRowThreads + threadIdx.x;
  if (e >= args.rows * args.dim) return;
  int64_t r = e;
  const int64_t d = by_dim.split(r);
  const C one = args.output[r], other = args.output[args.rows + r];
  const bool is_first = one <= other || one != one;
  if (args.score != nullptr) args.score[e] = args.grad[e + (is_first ? 0 : args.rows * args.dim)];
  if (d != 0) return;
  args.value[r] = is_first ? one : other;
  if (args.order != nullptr) args.order[r] = is_first ? 0 : ~0;
}

template <class C>
void twin_minimum(const TwinMinimum<C>& args, void* stream) {
  const Divider by_dim(args.dim);
  launch_blocks("mlp_minimum", ceil_div(args.rows * args.dim, kRowThreads), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((twin_minimum_kernel<C>), grid, kRowThreads, 0, stream, args, by_dim, first);
  });
}

template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    twin_choice_kernel(TwinChoice<C> args, Divider by_dim, int64_t first_block) {
  const int64_t e = (first_block + blockIdx.x) * kRowThreads + threadIdx.x, count = args.rows * args.dim;
  if (e >= count) return;
  const C* from = args.derivatives + e + (args.order[by_dim.quotient(e)] < 0 ? args.orders * count : 0);
  args.out[0][e] = from[0];
  if (args.orders > 1) args.out[1][e] = from[count];
}

template <class C>
void twin_choice(const TwinChoice<C>& args, void* stream) {
  const Divider by_dim(args.dim);
  launch_blocks("mlp_along", ceil_div(args.rows * args.dim, kRowThreads), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((twin_choice_kernel<C>), grid, kRowThreads, 0, stream, args, by_dim, first);
  });
}

}  // namespace svgdx::cuda
