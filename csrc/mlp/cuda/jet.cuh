// mlp_score_hvp between its matrix products: a layer's activation with value and tangent, and its reverse.
#pragma once

#include "mlp/cuda/units.cuh"

namespace svgdx::cuda {

template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    mlp_hidden_kernel(MlpForward<C> args, ColumnPlan plan, Divider by_group, int64_t first_block) {
  const RowGroup group(plan.rows);
  int64_t r = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const Columns<C> at(plan, group.lane, plan.by_chunks.split(r));
  if (r >= args.rows) return;
  const int64_t start = r * args.width, half = args.rows * args.width;
  auto tangent = at.load(args.product + half + start);
  const auto jets = unit_jets(args.activation, args.product, args.shift, by_group, r, at);
  WidePack<C> value, slope, bend;
  SVGDX_UNROLL
  for (int w = 0; w < kPackWidth<C>; ++w) {
    const auto unit = hidden_unit(jets.v[w], tangent.v[w]);
    value.v[w] = unit.value;
    tangent.v[w] = unit.tangent;
    slope.v[w] = unit.slope;
    bend.v[w] = unit.bend;
  }
  at.store(args.stacked + start, value);
  at.store(args.stacked + half + start, tangent);
  at.store(args.slope + start, slope);
  at.store(args.bend + start, bend);
}

template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    mlp_head_kernel(MlpForward<C> args, ColumnPlan plan, Divider by_group, int64_t first_block) {
  SVGDX_SHARED(C, partial, kRowWarps);
  const RowGroup group(plan.rows);
  const int64_t r = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const int64_t start = r * args.width, half = args.rows * args.width;
  C sum = 0;
  SVGDX_UNROLL_BY(1)
  for (int64_t chunk = 0; r < args.rows && chunk < plan.chunks; ++chunk) {
    const Columns<C> at(plan, group.lane, chunk);
    const auto jets = unit_jets(args.activation, args.product, args.shift, by_group, r, at);
    auto tangent = at.load(args.product + half + start), weight = at.load(args.head.weight);
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<C>; ++w) {
      const auto unit = head_unit(jets.v[w], tangent.v[w], weight.v[w]);
      sum += unit.share;
      weight.v[w] = unit.grad;
      tangent.v[w] = unit.grad_tangent;
    }
    at.store(args.stacked + start, weight);
    at.store(args.stacked + half + start, tangent);
  }
  sum = group.combine(sum, Sum<C>(), partial);
  if (r < args.rows && group.lane == 0) args.head.value[r] = sum + args.head.bias[0];
}

template <class C>
void mlp_forward(const MlpForward<C>& args, void* stream) {
  const bool head = args.head.weight != nullptr;
  const bool wide = all_aligned(args.width, args.product, args.stacked, args.slope, args.bend, args.head.weight,
                                args.shift.bias, args.shift.condition);
  const int lanes = head ? row_lanes<C>(args.width, wide) : chunk_lanes<C>(args.width, wide);
  const ColumnPlan plan = plan_columns<C>(args.width, wide, lanes);
  const Divider by_group(args.shift.group);
  const int64_t blocks = head ? plan.row_blocks(args.rows) : plan.chunk_blocks(args.rows);
  launch_blocks("mlp_score_hvp", blocks, [&](unsigned grid, int64_t first) {
    if (head) {
      SVGDX_LAUNCH((mlp_head_kernel<C>), grid, kRowThreads, 0, stream, args, plan, by_group, first);
    } else {
      SVGDX_LAUNCH((mlp_hidden_kernel<C>), grid, kRowThreads, 0, stream, args, plan, by_group, first);
    }
  });
}

// Treats all rows of the layer as one.
template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    mlp_reverse_kernel(MlpReverse<C> args, ColumnPlan plan, int64_t first_block) {
  const RowGroup group(plan.rows);
  const Columns<C> at(plan, group.lane, (first_block + blockIdx.x) * plan.rows.rows() + group.row);
  auto grad = at.load(args.product), tangent = at.load(args.product + plan.width);
  const auto slope = at.load(args.slope), bend = at.load(args.bend);
  SVGDX_UNROLL
  for (int w = 0; w < kPackWidth<C>; ++w) {
    tangent.v[w] = reverse_tangent(slope.v[w], bend.v[w], grad.v[w], tangent.v[w]);
    grad.v[w] *= slope.v[w];
  }
  at.store(args.stacked, grad);
  at.store(args.stacked + plan.width, tangent);
}

template <class C>
void mlp_reverse(const MlpReverse<C>& args, void* stream) {
  const int64_t count = args.rows * args.width;
  const bool wide = all_aligned(count, args.product, args.stacked, args.slope, args.bend);
  const ColumnPlan plan = plan_columns<C>(count, wide, 5);
  launch_blocks("mlp_score_hvp", plan.chunk_blocks(1), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((mlp_reverse_kernel<C>), grid, kRowThreads, 0, stream, args, plan, first);
  });
}

}  // namespace svgdx::cuda
