// The kernels of mlp/cuda/twin.h. A group of lanes takes a row, or a part of it; twin_head_kernel sums over a row.
#pragma once

#include "common/cuda/columns.cuh"
#include "mlp/cuda/math.cuh"
#include "mlp/cuda/twin.h"
#include "mlp/curves.h"

namespace svgdx::cuda {

// Where row r of network k begins in an array (2, streams, N, width); the next stream is N * width further.
__device__ inline int64_t twin_start(int64_t rows, int64_t width, int64_t k, int64_t r, int streams) {
  return (k * (streams - 1) * rows + r) * width;
}

// From the derivatives of z in t to those of a(z), at units whose values are `value`.
template <class C>
__device__ inline void to_values(Activation activation, const WidePack<C>& value, WidePack<C>& one, WidePack<C>& two) {
  with_curves(activation, [&](auto tag) {
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<C>; ++w) {
      const auto d = curves<decltype(tag)::kind, CudaMath<C>>(value.v[w]);
      two.v[w] = d.second * one.v[w] * one.v[w] + d.slope * two.v[w];
      one.v[w] *= d.slope;
    }
  });
}

// From a gradient in a(z) and its derivatives in t to those in z, with h' and h'' the derivatives of z: d/dt of a'(z) g
// is a'' h' g + a' g', and of that a''' h'^2 g + a'' h'' g + 2 a'' h' g' + a' g''.
template <class C>
__device__ inline void to_arguments(Activation activation, const WidePack<C>& value, const WidePack<C>& h_one,
                                    const WidePack<C>& h_two, WidePack<C>& grad, WidePack<C>& one, WidePack<C>& two) {
  with_curves(activation, [&](auto tag) {
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<C>; ++w) {
      const auto d = curves<decltype(tag)::kind, CudaMath<C>>(value.v[w]);
      const C bend = d.second * h_one.v[w], third = d.third * h_one.v[w] * h_one.v[w] + d.second * h_two.v[w];
      two.v[w] = grad.v[w] * third + C(2) * bend * one.v[w] + d.slope * two.v[w];
      one.v[w] = grad.v[w] * bend + d.slope * one.v[w];
      grad.v[w] *= d.slope;
    }
  });
}

// One pack of a layer's units in row r of network k: a(z), and the derivatives of z.
template <class C>
struct TwinUnits {
  WidePack<C> value, one, two;
};

template <class C>
__device__ inline TwinUnits<C> twin_units(const TwinLayer<C>& args, const Divider& by_group, int64_t k, int64_t r,
                                          const Columns<C>& at) {
  const C* product = args.product + twin_start(args.rows, args.width, k, r, 1 + args.given);
  const int64_t further = args.rows * args.width;
  TwinUnits<C> units{at.load(product), {}, {}};
  const auto shift = at.load(args.shift + by_group.quotient(r) * args.pitch);
  if (args.given > 0) units.one = at.load(product + further);
  if (args.given > 1) units.two = at.load(product + 2 * further);
  with_curves(args.activation, [&](auto tag) {
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<C>; ++w) {
      const C z = units.value.v[w] + shift.v[w];
      units.value.v[w] = activation_jet<decltype(tag)::kind, CudaMath<C>>(z).value;
    }
  });
  return units;
}

// Stores a pack of row r of network k, then its derivatives.
template <class C>
__device__ inline void store_streams(C* out, int64_t rows, int orders, int64_t k, int64_t r, const Columns<C>& at,
                                     const WidePack<C>& zero, const WidePack<C>& one, const WidePack<C>& two) {
  out += twin_start(rows, at.width, k, r, 1 + orders);
  at.store(out, zero);
  if (orders > 0) at.store(out + rows * at.width, one);
  if (orders > 1) at.store(out + 2 * rows * at.width, two);
}

template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    twin_layer_kernel(TwinLayer<C> args, ColumnPlan plan, Divider by_group, Divider by_rows, int64_t first_block) {
  const RowGroup group(plan.rows);
  int64_t r = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const Columns<C> at(plan, group.lane, plan.by_chunks.split(r));
  if (r >= 2 * args.rows) return;
  const int64_t k = by_rows.quotient(r);
  auto units = twin_units(args, by_group, k, r, at);
  if (args.saved != nullptr) at.store(args.saved + r * args.width, units.value);
  if (args.orders > 0) to_values<C>(args.activation, units.value, units.one, units.two);
  store_streams(args.value, args.rows, args.orders, k, r, at, units.value, units.one, units.two);
}

// Occupancy is below one half: a unit's value, three derivatives and their gradients stay in registers.
template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks - 2)
    twin_head_kernel(TwinLayer<C> args, ColumnPlan plan, Divider by_group, Divider by_rows, int64_t first_block) {
  SVGDX_SHARED(C, partial, kRowWarps);
  const RowGroup group(plan.rows);
  const int64_t r = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const bool exists = r < 2 * args.rows;
  const int64_t k = exists ? by_rows.quotient(r) : 0;
  const C* head = args.head + k * args.head_pitch;
  C sum = 0;
  SVGDX_UNROLL_BY(1)
  for (int64_t chunk = 0; exists && chunk < plan.chunks; ++chunk) {
    const Columns<C> at(plan, group.lane, chunk);
    const auto units = twin_units(args, by_group, k, r, at);
    auto weight = at.load(head);
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<C>; ++w) sum += weight.v[w] * units.value.v[w];
    if (args.saved != nullptr) at.store(args.saved + r * args.width, units.value);
    if (args.grad == nullptr) continue;
    WidePack<C> one{}, two{};
    to_arguments<C>(args.activation, units.value, units.one, units.two, weight, one, two);
    store_streams(args.grad, args.rows, args.orders, k, r, at, weight, one, two);
  }
  sum = group.combine(sum, Sum<C>(), partial);
  if (exists && group.lane == 0) args.output[r] = sum + head[args.width];
}

template <class C>
void twin_layer(const TwinLayer<C>& args, void* stream) {
  const bool head = args.head != nullptr;
  const bool wide = all_aligned(args.width, args.product, args.shift, args.value, args.saved, args.grad) &&
                    is_aligned(args.shift, args.pitch) && is_aligned(args.head, head ? args.head_pitch : 0);
  const int lanes = head ? row_lanes<C>(args.width, wide) : chunk_lanes<C>(args.width, wide);
  const ColumnPlan plan = plan_columns<C>(args.width, wide, lanes);
  const Divider by_group(args.group), by_rows(std::max<int64_t>(1, args.rows));
  const int64_t blocks = head ? plan.row_blocks(2 * args.rows) : plan.chunk_blocks(2 * args.rows);
  launch_blocks("mlp_minimum", blocks, [&](unsigned grid, int64_t first) {
    if (head) {
      SVGDX_LAUNCH((twin_head_kernel<C>), grid, kRowThreads, 0, stream, args, plan, by_group, by_rows, first);
    } else {
      SVGDX_LAUNCH((twin_layer_kernel<C>), grid, kRowThreads, 0, stream, args, plan, by_group, by_rows, first);
    }
  });
}

// Calls launch(grid, first_block, by_rows) for kernels whose groups take a chunk of one of the 2 N rows.
template <class Launch>
void launch_twin(const char* op, int64_t rows, const ColumnPlan& plan, const Launch& launch) {
  const Divider by_rows(std::max<int64_t>(1, rows));
  launch_blocks(op, plan.chunk_blocks(2 * rows), [&](unsigned grid, int64_t first) { launch(grid, first, by_rows); });
}

template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    twin_back_kernel(TwinBack<C> args, ColumnPlan plan, Divider by_rows, int64_t first_block) {
  const RowGroup group(plan.rows);
  int64_t r = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const Columns<C> at(plan, group.lane, plan.by_chunks.split(r));
  if (r >= 2 * args.rows) return;
  const int64_t k = by_rows.quotient(r), further = args.rows * args.width;
  const int64_t start = twin_start(args.rows, args.width, k, r, 1 + args.orders);
  const auto value = at.load(args.value + start);
  auto grad = at.load(args.grad + start);
  if (args.saved != nullptr) at.store(args.saved + r * args.width, grad);
  WidePack<C> h_one{}, h_two{}, one{}, two{};
  if (args.orders > 0) {
    const C* h = args.product + twin_start(args.rows, args.width, k, r, 1 + args.given);
    h_one = at.load(h + further);
    if (args.given > 1) h_two = at.load(h + 2 * further);
    one = at.load(args.grad + start + further);
    if (args.orders > 1) two = at.load(args.grad + start + 2 * further);
  }
  to_arguments<C>(args.activation, value, h_one, h_two, grad, one, two);
  store_streams(args.out, args.rows, args.orders, k, r, at, grad, one, two);
}

template <class C>
void twin_back(const TwinBack<C>& args, void* stream) {
  const bool wide = all_aligned(args.width, args.value, args.product, args.grad, args.out, args.saved);
  const ColumnPlan plan = plan_columns<C>(args.width, wide, chunk_lanes<C>(args.width, wide));
  launch_twin("mlp_minimum", args.rows, plan, [&](unsigned grid, int64_t first, const Divider& by_rows) {
    SVGDX_LAUNCH((twin_back_kernel<C>), grid, kRowThreads, 0, stream, args, plan, by_rows, first);
  });
}

template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    twin_along_kernel(TwinAlong<C> args, ColumnPlan plan, Divider by_rows, int64_t first_block) {
  const RowGroup group(plan.rows);
  int64_t r = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const Columns<C> at(plan, group.lane, plan.by_chunks.split(r));
  if (r >= 2 * args.rows) return;
  const int64_t k = by_rows.quotient(r), further = args.rows * args.width;
  const C* h = args.h + twin_start(args.rows, args.width, k, r, args.given);
  C* out = args.out + twin_start(args.rows, args.width, k, r, args.orders);
  auto one = at.load(h);
  WidePack<C> two{};
  if (args.given > 1) two = at.load(h + further);
  to_values<C>(args.activation, at.load(args.value + r * args.width), one, two);
  at.store(out, one);
  if (args.orders > 1) at.store(out + further, two);
}

template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    twin_along_back_kernel(TwinAlong<C> args, ColumnPlan plan, Divider by_rows, int64_t first_block) {
  const RowGroup group(plan.rows);
  int64_t r = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const Columns<C> at(plan, group.lane, plan.by_chunks.split(r));
  if (r >= 2 * args.rows) return;
  const int64_t k = by_rows.quotient(r), further = args.rows * args.width;
  const C* h = args.h + twin_start(args.rows, args.width, k, r, args.given);
  const int64_t start = twin_start(args.rows, args.width, k, r, args.orders);
  auto grad = at.load(args.back != nullptr ? args.back + r * args.width : args.head + k * args.head_pitch);
  const auto h_one = at.load(h);
  WidePack<C> h_two{}, one{}, two{};
  if (args.given > 1) h_two = at.load(h + further);
  if (args.grad != nullptr) {
    one = at.load(args.grad + start);
    if (args.orders > 1) two = at.load(args.grad + start + further);
  }
  to_arguments<C>(args.activation, at.load(args.value + r * args.width), h_one, h_two, grad, one, two);
  at.store(args.out + start, one);
  if (args.orders > 1) at.store(args.out + start + further, two);
}

template <class C>
ColumnPlan plan_along(const TwinAlong<C>& args) {
  const bool wide = all_aligned(args.width, args.value, args.h, args.out, args.back, args.grad) &&
                    is_aligned(args.head, args.head_pitch);
  return plan_columns<C>(args.width, wide, chunk_lanes<C>(args.width, wide));
}

template <class C>
void twin_along(const TwinAlong<C>& args, void* stream) {
  const ColumnPlan plan = plan_along(args);
  launch_twin("mlp_along", args.rows, plan, [&](unsigned grid, int64_t first, const Divider& by_rows) {
    SVGDX_LAUNCH((twin_along_kernel<C>), grid, kRowThreads, 0, stream, args, plan, by_rows, first);
  });
}

template <class C>
void twin_along_back(const TwinAlong<C>& args, void* stream) {
  const ColumnPlan plan = plan_along(args);
  launch_twin("mlp_along", args.rows, plan, [&](unsigned grid, int64_t first, const Divider& by_rows) {
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
