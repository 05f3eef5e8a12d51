// gfn_trajectory_log_prob: set times, log-probabilities of every row, their sums, and the gradient of the logits.
#pragma once

#include "common/cuda/divider.cuh"
#include "trajectory/args.h"
#include "trajectory/cuda/bits.cuh"

namespace svgdx::cuda {

constexpr int kSetTimeThreads = 256;

// One block per trajectory. If two actions set the same location, the earlier one is kept, whichever thread is first.
__global__ void __launch_bounds__(kSetTimeThreads, 4) set_times_kernel(SetTimeArgs args, int64_t first_block) {
  const int64_t b = first_block + blockIdx.x, dim = args.shape.dim, steps = args.shape.steps;
  int32_t* set_time = args.set_time + b * (dim + 1);
  bool bad = false;
  for (int64_t d = threadIdx.x; d < dim; d += blockDim.x) {
    const int entry = args.initial == nullptr ? -1 : args.initial[b * dim + d];
    bad |= entry < -1 || entry > 1;
    set_time[d] = entry == -1 ? int32_t(steps) : -1;
  }
  __syncthreads();
  for (int64_t t = threadIdx.x; t < steps; t += blockDim.x) {
    const int64_t action = args.actions[b * steps + t];
    if (action < 0 || action >= 2 * dim) {
      bad = true;
    } else {
      bad |= atomicMin(set_time + action / 2, int32_t(t)) != int32_t(steps);
    }
  }
  bad = __syncthreads_or(bad);
  if (threadIdx.x == 0) set_time[dim] = bad ? 0 : 1;
}

// How a launch divides the rows.
struct TrajectoryPlan {
  RowPlan rows;
  Divider by_row;  // T + 1
  int groups;      // of 32 locations

  template <class S>
  static TrajectoryPlan of(const TrajectoryShape& shape) {
    return {plan_rows(most_packs<S>(2 * shape.dim), 4), Divider(shape.steps + 1), int(ceil_div(shape.dim, 32))};
  }
  SVGDX_HD int words() const { return double_bit_words(groups) + bit_words(groups); }
  size_t shared() const { return size_t(rows.rows()) * size_t(words()) * sizeof(uint32_t); }
};

// Writes the void bits, then the set bits, of every row of the block.
template <class Args>
__device__ inline void write_masks(const Args& args, const TrajectoryPlan& plan, int64_t first, uint32_t* words) {
  const int rows = int(min(int64_t(plan.rows.rows()), args.rows - first));
  visit_locations(rows, plan.groups, [&](int row, int group) {
    int64_t b = args.first_row + first + row;
    const int64_t t = plan.by_row.split(b);
    const int64_t dim = args.shape.dim, d = 32 * int64_t(group) + threadIdx.x % 32;
    const int32_t time = d < dim ? args.set_time[b * (dim + 1) + d] : 0;
    uint32_t* own = words + row * plan.words();
    write_double_bits(own, group, plan.groups, __ballot_sync(kFullWarp, d < dim && is_void_at(time, t)));
    own += double_bit_words(plan.groups);
    write_bits(own, group, plan.groups, __ballot_sync(kFullWarp, d < dim && is_set_at(time, t)));
  });
}

// The calling group's row of the launch. A row has two sides: 0 for P_F and the step forward, 1 for P_B and the step
// back.
struct TrajectoryRow {
  int64_t index, b, t;
  bool exists, valid;

  template <class Args>
  __device__ TrajectoryRow(const Args& args, const TrajectoryPlan& plan, int64_t row)
      : index(args.first_row + row), b(index), t(plan.by_row.split(b)), exists(row < args.rows) {
    valid = exists && args.set_time[b * (args.shape.dim + 1) + args.shape.dim] == 1;
  }
  __device__ bool steps(int side, const TrajectoryShape& shape) const {
    return valid && (side == 0 ? t < shape.steps : t > 0);
  }
  // The entry that the trajectory takes on this side.
  __device__ int taken(int side, const TrajectoryShape& shape, const int64_t* actions) const {
    const int64_t action = actions[b * shape.steps + t - side];
    return int(side == 0 ? action : action / 2);
  }
};

__device__ inline BitMask mask_of(int side, const uint32_t* words, int row, const TrajectoryPlan& plan) {
  return {words + row * plan.words() + (side == 0 ? 0 : double_bit_words(plan.groups))};
}

template <class S>
__global__ void __launch_bounds__(kRowThreads, kGfnBlocks<S>)
    trajectory_rows_kernel(TrajectoryRows<S> args, TrajectoryPlan plan, int64_t first_block) {
  using C = Compute<S>;
  SVGDX_DYNAMIC_SHARED(uint32_t, words);
  SVGDX_SHARED(C, partial, kRowWarps);
  const int64_t first = (first_block + blockIdx.x) * plan.rows.rows();
  const int dim = int(args.shape.dim);
  write_masks(args, plan, first, words);
  const RowGroup group(plan.rows);
  const TrajectoryRow row(args, plan, first + group.row);
  __syncthreads();
  SVGDX_UNROLL
  for (int side = 0; side < 2; ++side) {
    const bool steps = row.steps(side, args.shape);
    const S* logits = args.logits + (first + group.row) * 3 * dim + (side == 0 ? 0 : 2 * dim);
    const Segment<S> segment(logits, !steps ? 0 : side == 0 ? 2 * dim : dim);
    const auto sum = log_sum(segment, mask_of(side, words, group.row, plan), group).total(group, partial);
    if (!row.exists || group.lane != 0) continue;
    const C none = row.valid ? C(0) : not_a_number<C>();
    args.normalizers[2 * row.index + side] = steps ? sum.log_sum_exp() : none;
    args.row_log_prob[2 * row.index + side] =
        steps ? sum.log_prob(to_compute(logits[row.taken(side, args.shape, args.actions)])) : none;
  }
}

template <class S>
void trajectory_rows(const TrajectoryRows<S>& args, void* stream) {
  const auto plan = TrajectoryPlan::of<S>(args.shape);
  launch_blocks("gfn_trajectory_log_prob", ceil_div(args.rows, plan.rows.rows()), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((trajectory_rows_kernel<S>), grid, kRowThreads, plan.shared(), stream, args, plan, first);
  });
}

// Occupancy for double is 44 % where the compiler uses all registers it may: exp and two 64-bit iterations fill them.
template <class S>
__global__ void __launch_bounds__(kRowThreads, kGfnBlocks<S>)
    trajectory_rows_backward_kernel(TrajectoryRowsGrad<S> args, TrajectoryPlan plan, int64_t first_block) {
  using C = Compute<S>;
  SVGDX_DYNAMIC_SHARED(uint32_t, words);
  const int64_t first = (first_block + blockIdx.x) * plan.rows.rows();
  const int dim = int(args.shape.dim);
  write_masks(args, plan, first, words);
  const RowGroup group(plan.rows);
  const TrajectoryRow row(args, plan, first + group.row);
  __syncthreads();
  if (!row.exists) return;
  SVGDX_UNROLL
  for (int side = 0; side < 2; ++side) {
    const int count = side == 0 ? 2 * dim : dim;
    const int64_t start = (first + group.row) * 3 * dim + (side == 0 ? 0 : 2 * dim);
    const C* upstream = side == 0 ? args.grad_log_pf : args.grad_log_pb;
    auto grad = SegmentGrad<C>::all(row.valid ? C(0) : not_a_number<C>());
    if (upstream != nullptr && row.steps(side, args.shape)) {
      grad = {upstream[row.b], args.normalizers[2 * row.index + side], row.taken(side, args.shape, args.actions), C(0),
              false};
    }
    write_grad(Segment<S>(args.logits + start, count), mask_of(side, words, group.row, plan), group, grad,
               args.grad_logits + start);
  }
}

template <class S>
void trajectory_rows_backward(const TrajectoryRowsGrad<S>& args, void* stream) {
  if (args.shape.dim == 0) return;
  const auto plan = TrajectoryPlan::of<S>(args.shape);
  const int64_t blocks = ceil_div(args.rows, plan.rows.rows());
  launch_blocks("gfn_trajectory_log_prob_backward", blocks, [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((trajectory_rows_backward_kernel<S>), grid, kRowThreads, plan.shared(), stream, args, plan, first);
  });
}

}  // namespace svgdx::cuda
