// mlp_laplacian between its matrix products: a layer's activation with value, Laplacian and Jacobian, and its reverse.
#pragma once

#include "mlp/cuda/units.cuh"

namespace svgdx::cuda {

// For one pack of the Jacobian, calls visit(d, J_d) for each d and returns the sum of J_d^2.
template <class C, class F>
__device__ inline WidePack<C> sum_squares(const LaplacianLayer<C>& layer, int64_t r, const Columns<C>& at, F visit) {
  const C* jacobian = layer.jacobian + r * layer.jacobian_stride;
  WidePack<C> squares{};
  SVGDX_UNROLL_BY(2)
  for (int d = 0; d < int(layer.dim); ++d) {
    const auto slope = at.load(jacobian + d * layer.width);
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<C>; ++w) squares.v[w] += slope.v[w] * slope.v[w];
    visit(d, slope);
  }
  return squares;
}

template <class C>
__device__ inline WidePack<C> old_laplacian(const LaplacianLayer<C>& layer, int64_t r, const Columns<C>& at) {
  if (layer.laplacian == nullptr) return {};
  return at.load(layer.laplacian + r * layer.width);
}

template <class C>
__device__ inline UnitJets<C> unit_jets(const LaplacianLayer<C>& layer, const Divider& by_group, int64_t r,
                                        const Columns<C>& at) {
  return unit_jets(layer.activation, layer.argument, layer.shift, by_group, r, at);
}

template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    laplacian_hidden_kernel(MlpLaplacian<C> args, ColumnPlan plan, Divider by_group, int64_t first_block) {
  const RowGroup group(plan.rows);
  int64_t r = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const Columns<C> at(plan, group.lane, plan.by_chunks.split(r));
  const LaplacianLayer<C>& layer = args.layer;
  if (r >= layer.rows) return;
  const auto jets = unit_jets(layer, by_group, r, at);
  auto laplacian = old_laplacian(layer, r, at);
  C* jacobian = args.stacked + (2 * layer.rows + r * layer.dim) * layer.width;
  const auto squares = sum_squares(layer, r, at, [&](int d, auto slope) {
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<C>; ++w) slope.v[w] *= jets.v[w].first;
    at.store(jacobian + d * layer.width, slope);
  });
  WidePack<C> value;
  SVGDX_UNROLL
  for (int w = 0; w < kPackWidth<C>; ++w) {
    value.v[w] = jets.v[w].value;
    laplacian.v[w] = unit_laplacian(jets.v[w], squares.v[w], laplacian.v[w]);
  }
  at.store(args.stacked + r * layer.width, value);
  at.store(args.stacked + (layer.rows + r) * layer.width, laplacian);
}

// One warp per row; lane d % 32 holds entry d of the score.
template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    laplacian_head_kernel(MlpLaplacian<C> args, ColumnPlan plan, Divider by_group, int64_t first_block) {
  const RowGroup group(plan.rows);
  const int64_t r = (first_block + blockIdx.x) * kRowWarps + group.row;
  const LaplacianLayer<C>& layer = args.layer;
  if (r >= layer.rows) return;
  C value = 0, trace = 0, score = 0, further = 0;
  SVGDX_UNROLL_BY(1)
  for (int64_t chunk = 0; chunk < plan.chunks; ++chunk) {
    const Columns<C> at(plan, group.lane, chunk);
    const auto jets = unit_jets(layer, by_group, r, at);
    const auto laplacian = old_laplacian(layer, r, at), weight = at.load(args.head.weight);
    const auto squares = sum_squares(layer, r, at, [&](int d, const auto& slope) {
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
  if (group.lane < layer.dim) args.score[r * layer.dim + group.lane] = score;
  if (group.lane + 32 < layer.dim) args.score[r * layer.dim + group.lane + 32] = further;
}

// One pack of a row's units. Occupancy is below one half: its activations with three derivatives stay in registers
// through the loop over d.
template <class C>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks / 2)
    laplacian_reverse_kernel(MlpLaplacianReverse<C> args, ColumnPlan plan, Divider by_group, int64_t first_block) {
  const RowGroup group(plan.rows);
  int64_t r = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const Columns<C> at(plan, group.lane, plan.by_chunks.split(r));
  const LaplacianLayer<C>& layer = args.layer;
  if (r >= layer.rows) return;
  const bool head = args.weight != nullptr;
  C* value = args.grads + r * layer.width;
  C* trace = value + layer.rows * layer.width;
  C* jacobian = args.grads + (2 * layer.rows + r * layer.dim) * layer.width;
  const auto jets = unit_jets(layer, by_group, r, at);
  WidePack<C> weight{};
  if (head) weight = at.load(args.weight);
  const auto above = [&](const C* grads, int64_t index) {
    if (!head) return at.load(grads);
    WidePack<C> grad = weight;
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<C>; ++w) grad.v[w] *= args.upstream[index];
    return grad;
  };
  auto grad = above(value, r), grad_laplacian = above(trace, layer.rows + r);
  WidePack<C> along{};
  const auto squares = sum_squares(layer, r, at, [&](int d, auto slope) {
    const auto of_slope = above(jacobian + d * layer.width, 2 * layer.rows + r * layer.dim + d);
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<C>; ++w) {
      along.v[w] += slope.v[w] * of_slope.v[w];
      slope.v[w] = unit_jacobian_grad(jets.v[w], slope.v[w], of_slope.v[w], grad_laplacian.v[w]);
    }
    at.store(jacobian + d * layer.width, slope);
  });
  const auto laplacian = old_laplacian(layer, r, at);
  SVGDX_UNROLL
  for (int w = 0; w < kPackWidth<C>; ++w) {
    const auto below =
        unit_laplacian_grads(jets.v[w], squares.v[w], laplacian.v[w], along.v[w], grad.v[w], grad_laplacian.v[w]);
    grad.v[w] = below.argument;
    grad_laplacian.v[w] = below.laplacian;
  }
  at.store(value, grad);
  at.store(trace, grad_laplacian);
}

// Whether rows of the layer and of two further arrays are read in packs.
template <class C>
bool is_aligned(const LaplacianLayer<C>& layer, const C* rows, const C* weight) {
  return all_aligned(layer.width, layer.argument, layer.laplacian, layer.jacobian, rows, weight, layer.shift.bias,
                     layer.shift.condition);
}

template <class C>
void mlp_laplacian(const MlpLaplacian<C>& args, void* stream) {
  const bool head = args.head.weight != nullptr;
  const LaplacianLayer<C>& layer = args.layer;
  const bool wide = is_aligned(layer, args.stacked, args.head.weight);
  const ColumnPlan plan = plan_columns<C>(layer.width, wide, head ? 5 : chunk_lanes<C>(layer.width, wide));
  const Divider by_group(layer.shift.group);
  const int64_t blocks = head ? plan.row_blocks(layer.rows) : plan.chunk_blocks(layer.rows);
  launch_blocks("mlp_laplacian", blocks, [&](unsigned grid, int64_t first) {
    if (head) {
      SVGDX_LAUNCH((laplacian_head_kernel<C>), grid, kRowThreads, 0, stream, args, plan, by_group, first);
    } else {
      SVGDX_LAUNCH((laplacian_hidden_kernel<C>), grid, kRowThreads, 0, stream, args, plan, by_group, first);
    }
  });
}

template <class C>
void mlp_laplacian_reverse(const MlpLaplacianReverse<C>& args, void* stream) {
  const LaplacianLayer<C>& layer = args.layer;
  const bool wide = is_aligned<C>(layer, args.grads, args.weight);
  const ColumnPlan plan = plan_columns<C>(layer.width, wide, chunk_lanes<C>(layer.width, wide));
  const Divider by_group(layer.shift.group);
  launch_blocks("mlp_laplacian_backward", plan.chunk_blocks(layer.rows), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((laplacian_reverse_kernel<C>), grid, kRowThreads, 0, stream, args, plan, by_group, first);
  });
}

}  // namespace svgdx::cuda
