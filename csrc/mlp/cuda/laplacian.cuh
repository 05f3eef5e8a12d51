// mlp_laplacian between its matrix products: a layer's activation with value, Laplacian and Jacobian.
#pragma once

#include "mlp/cuda/units.cuh"

namespace svgdx::cuda {

// For one pack of the Jacobian, calls visit(d, J_d) for each d and returns the sum of J_d^2.
template <class C, class F>
__device__ inline WidePack<C> sum_squares(const MlpLaplacian<C>& args, int64_t r, const Columns<C>& at, F visit) {
  const C* jacobian = args.jacobian + r * args.jacobian_stride;
  WidePack<C> squares{};
  SVGDX_UNROLL_BY(2)
  for (int d = 0; d < int(args.dim); ++d) {
    const auto slope = at.load(jacobian + d * args.width);
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<C>; ++w) squares.v[w] += slope.v[w] * slope.v[w];
    visit(d, slope);
  }
  return squares;
}

template <class C>
__device__ inline WidePack<C> old_laplacian(const MlpLaplacian<C>& args, int64_t r, const Columns<C>& at) {
  if (args.laplacian == nullptr) return {};
  return at.load(args.laplacian + r * args.width);
}

template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    laplacian_hidden_kernel(MlpLaplacian<C> args, ColumnPlan plan, Divider by_group, int64_t first_block) {
  const RowGroup group(plan.rows);
  int64_t r = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const Columns<C> at(plan, group.lane, plan.by_chunks.split(r));
  if (r >= args.rows) return;
  const auto jets = unit_jets(args.activation, args.argument, args.shift, by_group, r, at);
  auto laplacian = old_laplacian(args, r, at);
  C* jacobian = args.stacked + (2 * args.rows + r * args.dim) * args.width;
  const auto squares = sum_squares(args, r, at, [&](int d, auto slope) {
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<C>; ++w) slope.v[w] *= jets.v[w].first;
    at.store(jacobian + d * args.width, slope);
  });
  WidePack<C> value;
  SVGDX_UNROLL
  for (int w = 0; w < kPackWidth<C>; ++w) {
    value.v[w] = jets.v[w].value;
    laplacian.v[w] = unit_laplacian(jets.v[w], squares.v[w], laplacian.v[w]);
  }
  at.store(args.stacked + r * args.width, value);
  at.store(args.stacked + (args.rows + r) * args.width, laplacian);
}

// One warp per row; lane d % 32 holds entry d of the score.
template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    laplacian_head_kernel(MlpLaplacian<C> args, ColumnPlan plan, Divider by_group, int64_t first_block) {
  const RowGroup group(plan.rows);
  const int64_t r = (first_block + blockIdx.x) * kRowWarps + group.row;
  if (r >= args.rows) return;
  C value = 0, trace = 0, score = 0, further = 0;
  SVGDX_UNROLL_BY(1)
  for (int64_t chunk = 0; chunk < plan.chunks; ++chunk) {
    const Columns<C> at(plan, group.lane, chunk);
    const auto jets = unit_jets(args.activation, args.argument, args.shift, by_group, r, at);
    const auto laplacian = old_laplacian(args, r, at), weight = at.load(args.head.weight);
    const auto squares = sum_squares(args, r, at, [&](int d, const auto& slope) {
      C sum = 0;
      SVGDX_UNROLL
      for (int w = 0; w < kPackWidth<C>; ++w) sum += weight.v[w] * (jets.v[w].first * slope.v[w]);
      sum = lane_sum(sum, 1, 32);
      if (d == group.lane) score += sum;
      if (d == group.lane + 32) further += sum;
    });
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<C>; ++w) {
      value += weight.v[w] * jets.v[w].value;
      trace += weight.v[w] * unit_laplacian(jets.v[w], squares.v[w], laplacian.v[w]);
    }
  }
  value = lane_sum(value, 1, 32);
  trace = lane_sum(trace, 1, 32);
  if (group.lane == 0) {
    args.head.value[r] = value + args.head.bias[0];
    args.trace[r] = trace;
  }
  static_assert(kMaxLaplacianDim == 64);
  if (group.lane < args.dim) args.score[r * args.dim + group.lane] = score;
  if (group.lane + 32 < args.dim) args.score[r * args.dim + group.lane + 32] = further;
}

template <class C>
void mlp_laplacian(const MlpLaplacian<C>& args, void* stream) {
  const bool head = args.head.weight != nullptr;
  const bool wide = all_aligned(args.width, args.argument, args.laplacian, args.jacobian, args.stacked,
                                args.head.weight, args.shift.bias, args.shift.condition);
  const ColumnPlan plan = plan_columns<C>(args.width, wide, head ? 5 : chunk_lanes<C>(args.width, wide));
  const Divider by_group(args.shift.group);
  const int64_t blocks = head ? plan.row_blocks(args.rows) : plan.chunk_blocks(args.rows);
  launch_blocks("mlp_laplacian", blocks, [&](unsigned grid, int64_t first) {
    if (head) {
      SVGDX_LAUNCH((laplacian_head_kernel<C>), grid, kRowThreads, 0, stream, args, plan, by_group, first);
    } else {
      SVGDX_LAUNCH((laplacian_hidden_kernel<C>), grid, kRowThreads, 0, stream, args, plan, by_group, first);
    }
  });
}

}  // namespace svgdx::cuda
