// The kernels of mlp/cuda/visit.h.
#pragma once

#include "common/cuda/columns.cuh"
#include "draw/cuda/sample.cuh"
#include "mlp/cuda/visit.h"

namespace svgdx::cuda {

// For slopes up to 1.
template <class S>
__device__ inline S leaky(S value, S slope) {
  const S scaled = slope * value;
  return value > scaled ? value : scaled;
}

// Blocks of forward rows come first; each kind has its own plan.
struct VisitPlan {
  SamplePlan forward, backward;
  int64_t forward_blocks;
  ColumnPlan columns;
};

// The rows of a block: [row, row + count), of a kind that begins at row `begin` and has `total` rows.
struct VisitRows {
  bool forward;
  int64_t begin, total, row;
  int count;

  template <class S>
  __device__ VisitRows(const RolloutVisit<S>& args, const VisitPlan& plan, int64_t block)
      : forward(block < plan.forward_blocks),
        begin(forward ? 0 : args.split),
        total(forward ? args.split : args.batch - args.split),
        row(begin +
            (forward ? block * plan.forward.rows.rows() : (block - plan.forward_blocks) * plan.backward.rows.rows())),
        count(int(min(int64_t(forward ? plan.forward.rows.rows() : plan.backward.rows.rows()), begin + total - row))) {}
};

template <class S>
__device__ inline void complete_logits(const RolloutVisit<S>& args, const VisitRows& rows) {
  const int length = 3 * int(args.dim);
  const int64_t time = rows.forward ? args.forward_time : args.backward_time;
  for (int r = 0; r < rows.count; ++r) {
    const int64_t row = (rows.row + r) * length, slot = ((rows.row + r) * args.times + time) * length;
    for (int i = threadIdx.x; i < length; i += kRowThreads) {
      const S value = args.product[row + i] + args.bias[i];
      args.logits[row + i] = value;
      if (args.record != nullptr) args.record[slot + i] = value;
    }
  }
}

// Draws the moves of the block's rows.
template <class S>
__device__ inline void draw_moves(const RolloutVisit<S>& args, const VisitRows& rows, const SamplePlan& plan) {
  const SampleArgs<S> sample{rows.total,
                             args.dim,
                             args.logits + rows.begin * 3 * args.dim,
                             args.state + rows.begin * args.dim,
                             rows.forward,
                             rows.forward ? args.forward : args.backward,
                             rows.forward ? args.forward_scale : args.backward_scale,
                             rows.forward ? args.forward_epsilon : args.backward_epsilon,
                             args.action + rows.begin,
                             args.log_prob + rows.begin,
                             args.next_state + rows.begin * args.dim};
  sample_rows(sample, plan, rows.row - rows.begin);
}

// Stores the move of thread r's row r, and which column of the first layer it adds how often.
template <class S>
__device__ inline void note_moves(const RolloutVisit<S>& args, const VisitRows& rows, int* location, S* factor) {
  const int r = threadIdx.x;
  if (r >= rows.count) return;
  const int64_t row = rows.row + r;
  const int drawn = int(args.action[row]);
  const int at = drawn < 0 ? 0 : rows.forward ? drawn / 2 : drawn;
  const int bit = rows.forward ? drawn % 2 : args.state[row * args.dim + at];
  args.actions[row * args.steps + (rows.forward ? args.forward_step : args.backward_step)] =
      drawn < 0 ? -1 : 2 * at + bit;
  location[r] = at;
  factor[r] = drawn < 0 ? S(0) : S(rows.forward ? bit + 1 : -bit - 1);
}

// A warp per row.
template <class S>
__device__ inline void first_layer(const RolloutVisit<S>& args, const VisitRows& rows, const ColumnPlan& plan,
                                   const int* location, const S* factor) {
  SVGDX_UNROLL_BY(1)
  for (int r = int(threadIdx.x) / 32; r < rows.count; r += kRowWarps) {
    S* argument = args.argument + (rows.row + r) * args.width;
    SVGDX_UNROLL_BY(1)
    for (int64_t chunk = 0; chunk < plan.chunks; ++chunk) {
      const Columns<S> at(plan, int(threadIdx.x) % 32, chunk);
      auto z = at.load(argument);
      if (args.draws) {
        const auto column = at.load(args.columns + location[r] * args.width);
        SVGDX_UNROLL
        for (int w = 0; w < kPackWidth<S>; ++w) z.v[w] += factor[r] * column.v[w];
        at.store(argument, z);
      }
      if (args.hidden == nullptr) continue;
      SVGDX_UNROLL
      for (int w = 0; w < kPackWidth<S>; ++w) z.v[w] = leaky(z.v[w], args.slope);
      at.store(args.hidden + (rows.row + r) * args.width, z);
    }
  }
}

// Occupancy for double is 44 % where the compiler uses all registers it may, as in the sampling kernel.
template <class S>
__global__ void __launch_bounds__(kRowThreads, kGfnBlocks<S>)
    rollout_visit_kernel(RolloutVisit<S> args, VisitPlan plan, int64_t first_block) {
  SVGDX_SHARED(int, location, kRowThreads / 8);
  SVGDX_SHARED(S, factor, kRowThreads / 8);
  const VisitRows rows(args, plan, first_block + blockIdx.x);
  if (args.product != nullptr) complete_logits(args, rows);
  if (args.draws) {
    __syncthreads();
    draw_moves(args, rows, rows.forward ? plan.forward : plan.backward);
    __syncthreads();
    note_moves(args, rows, location, factor);
    __syncthreads();
  }
  if (args.draws || args.hidden != nullptr) first_layer(args, rows, plan.columns, location, factor);
}

template <class S>
void rollout_visit(const RolloutVisit<S>& args, void* stream) {
  SampleArgs<S> sample{};
  sample.dim = args.dim;
  sample.logits = args.logits;
  sample.forward = true;
  const SamplePlan forward = SamplePlan::of(sample);
  sample.logits = args.logits + args.split * 3 * args.dim;
  sample.forward = false;
  const SamplePlan backward = SamplePlan::of(sample);
  const bool wide = all_aligned(args.width, args.argument, args.columns, args.hidden);
  const int64_t forward_blocks = ceil_div(args.split, forward.rows.rows());
  const int64_t blocks = forward_blocks + ceil_div(args.batch - args.split, backward.rows.rows());
  const VisitPlan plan{forward, backward, forward_blocks, plan_columns<S>(args.width, wide, 5)};
  const size_t shared = args.draws ? std::max(forward.shared<S>(), backward.shared<S>()) : 0;
  launch_blocks("mlp_rollout", blocks, [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((rollout_visit_kernel<S>), grid, kRowThreads, shared, stream, args, plan, first);
  });
}

template <class S>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    rollout_activate_kernel(RolloutActivate<S> args, ColumnPlan plan, int64_t first_block) {
  const RowGroup group(plan.rows);
  int64_t r = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const Columns<S> at(plan, group.lane, plan.by_chunks.split(r));
  if (r >= args.rows) return;
  auto z = at.load(args.in + r * args.width);
  const auto bias = at.load(args.bias);
  SVGDX_UNROLL
  for (int w = 0; w < kPackWidth<S>; ++w) z.v[w] = leaky(z.v[w] + bias.v[w], args.slope);
  at.store(args.out + r * args.width, z);
}

template <class S>
void rollout_activate(const RolloutActivate<S>& args, void* stream) {
  const bool wide = all_aligned(args.width, args.in, args.bias, args.out);
  const ColumnPlan plan = plan_columns<S>(args.width, wide, chunk_lanes<S>(args.width, wide));
  launch_blocks("mlp_rollout", plan.chunk_blocks(args.rows), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((rollout_activate_kernel<S>), grid, kRowThreads, 0, stream, args, plan, first);
  });
}

// A warp per row of 3 D gradients and D entries of the state.
template <class S>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    rollout_gather_kernel(RolloutGather<S> args, Divider by_batch, int64_t first_block) {
  const int64_t r = (first_block + blockIdx.x) * kRowWarps + threadIdx.x / 32;
  if (r >= args.rows) return;
  const int lane = threadIdx.x % 32, dim = int(args.dim);
  int64_t visit = args.first + r;
  const int64_t b = by_batch.split(visit), time = b < args.split ? visit : args.visits - 1 - visit;
  const S* grad = args.grad_logits + (b * args.visits + time) * 3 * dim;
  for (int i = lane; i < 3 * dim; i += 32) args.grads[r * 3 * dim + i] = grad[i];
  for (int d = lane; d < dim; d += 32) {
    const bool is_set = args.set_time[b * dim + d] < int(time);
    args.states[r * dim + d] = is_set ? S(args.final[b * dim + d]) : S(-1);
  }
}

template <class S>
void rollout_gather(const RolloutGather<S>& args, void* stream) {
  const Divider by_batch(std::max<int64_t>(1, args.batch));
  launch_blocks("mlp_rollout_backward", ceil_div(args.rows, kRowWarps), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((rollout_gather_kernel<S>), grid, kRowThreads, 0, stream, args, by_batch, first);
  });
}

// Treats all rows as one.
template <class S>
__global__ void __launch_bounds__(kRowThreads, kRowBlocks)
    rollout_activate_backward_kernel(ColumnPlan plan, const S* result, S slope, S* grad, int64_t first_block) {
  const RowGroup group(plan.rows);
  const Columns<S> at(plan, group.lane, (first_block + blockIdx.x) * plan.rows.rows() + group.row);
  auto g = at.load(grad);
  const auto y = at.load(result);
  SVGDX_UNROLL
  for (int w = 0; w < kPackWidth<S>; ++w) g.v[w] *= y.v[w] > S(0) ? S(1) : slope;
  at.store(grad, g);
}

template <class S>
void rollout_activate_backward(int64_t count, const S* result, S slope, S* grad, void* stream) {
  const bool wide = all_aligned(count, result, grad);
  const ColumnPlan plan = plan_columns<S>(count, wide, 5);
  launch_blocks("mlp_rollout_backward", plan.chunk_blocks(1), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((rollout_activate_backward_kernel<S>), grid, kRowThreads, 0, stream, plan, result, slope, grad, first);
  });
}

}  // namespace svgdx::cuda
