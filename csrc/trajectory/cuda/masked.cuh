// masked_trajectory_log_prob: rows of logits with a byte mask, and their gradient.
#pragma once

#include "trajectory/cuda/sums.cuh"

namespace svgdx::cuda {

// The mask of one row, read along with the logits.
struct ByteMask {
  const bool* row;

  template <class S>
  __device__ uint32_t operator()(const Segment<S>& segment, int e) const {
    constexpr int kWidth = Segment<S>::kWidth;
    const auto* bytes = reinterpret_cast<const uint8_t*>(row) + e;
    uint32_t bits = 0;
    if (segment.whole(e) && reinterpret_cast<uintptr_t>(bytes) % kWidth == 0) {
      const auto pack = *reinterpret_cast<const Pack<uint8_t, kWidth>*>(bytes);
      SVGDX_UNROLL
      for (int w = 0; w < kWidth; ++w) bits |= uint32_t(pack.v[w] != 0) << w;
      return bits;
    }
    SVGDX_UNROLL
    for (int w = 0; w < kWidth; ++w) {
      if (segment.holds(e + w)) bits |= uint32_t(bytes[w] != 0) << w;
    }
    return bits;
  }
};

// The action of row n, or -1 if it is out of range or masked.
template <class Args>
__device__ inline int64_t allowed_action(const Args& args, int64_t n) {
  const int64_t action = args.action[n];
  return action >= 0 && action < args.width && args.mask[n * args.width + action] ? action : -1;
}

template <class S>
__global__ void __launch_bounds__(kRowThreads, kGfnBlocks<S>)
    masked_rows_kernel(MaskedRows<S> args, RowPlan plan, int64_t first_block) {
  using C = Compute<S>;
  SVGDX_SHARED(C, partial, kRowWarps);
  const RowGroup group(plan);
  const int64_t n = (first_block + blockIdx.x) * plan.rows() + group.row;
  const S* logits = args.logits + n * args.width;
  const Segment<S> segment(logits, n < args.rows ? int(args.width) : 0);
  const auto sum = log_sum(segment, ByteMask{args.mask + n * args.width}, group).total(group, partial);
  if (n >= args.rows || group.lane != 0) return;
  const int64_t action = *args.valid != 0 ? allowed_action(args, n) : -1;
  args.normalizers[n] = action < 0 ? not_a_number<C>() : sum.log_sum_exp();
  args.row_log_prob[n] = action < 0 ? not_a_number<C>() : sum.log_prob(to_compute(logits[action]));
}

template <class S>
void masked_rows(const MaskedRows<S>& args, void* stream) {
  const RowPlan plan = plan_rows(most_packs<S>(args.width), 4);
  launch_blocks("masked_trajectory_log_prob", ceil_div(args.rows, plan.rows()), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((masked_rows_kernel<S>), grid, kRowThreads, 0, stream, args, plan, first);
  });
}

// The trajectory of row n, or -1 if the offsets do not determine it.
template <class S>
__device__ inline int64_t segment_of(const MaskedRowsGrad<S>& args, int64_t n) {
  int64_t low = 0, high = args.segments;  // offsets[low] <= n < offsets[high] if the offsets are valid
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    (args.offsets[middle] <= n ? low : high) = middle;
  }
  if (args.segments == 0 || !is_segment(args.offsets, low, args.segments, args.rows)) return -1;
  return args.offsets[low] <= n && n < args.offsets[low + 1] ? low : -1;
}

template <class S>
__global__ void __launch_bounds__(kRowThreads, kGfnBlocks<S>)
    masked_rows_backward_kernel(MaskedRowsGrad<S> args, RowPlan plan, int64_t first_block) {
  using C = Compute<S>;
  const RowGroup group(plan);
  const int64_t n = (first_block + blockIdx.x) * plan.rows() + group.row;
  if (n >= args.rows) return;
  const int64_t b = segment_of(args, n), action = allowed_action(args, n), start = n * args.width;
  auto grad = SegmentGrad<C>::all(not_a_number<C>());
  if (b >= 0 && action >= 0) grad = {args.grad[b], args.normalizers[n], int(action), C(0), false};
  const Segment<S> segment(args.logits + start, int(args.width));
  write_grad(segment, ByteMask{args.mask + start}, group, grad, args.grad_logits + start);
}

template <class S>
void masked_rows_backward(const MaskedRowsGrad<S>& args, void* stream) {
  const RowPlan plan = plan_rows(most_packs<S>(args.width), 4);
  const int64_t blocks = args.width == 0 ? 0 : ceil_div(args.rows, plan.rows());
  launch_blocks("masked_trajectory_log_prob_backward", blocks, [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((masked_rows_backward_kernel<S>), grid, kRowThreads, 0, stream, args, plan, first);
  });
}

}  // namespace svgdx::cuda
