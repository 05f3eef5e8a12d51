// The CPU backend of the trajectory ops: torch's threads share the rows; sums are formed in row order.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <limits>

#include "trajectory/cpu/kernels.h"

namespace svgdx::cpu {
namespace {

// Rows that keep a thread busy for a few microseconds.
int64_t grain(int64_t row_length) { return 1 + (int64_t(1) << 13) / (1 + row_length); }

void set_times_of(const SetTimeArgs& args, int64_t b) {
  const int64_t dim = args.shape.dim, steps = args.shape.steps;
  int32_t* times = args.set_time + b * (dim + 1);
  bool is_valid = true;
  for (int64_t d = 0; d < dim; ++d) {
    const int8_t entry = args.initial ? args.initial[b * dim + d] : int8_t(-1);
    is_valid &= entry >= -1 && entry <= 1;
    times[d] = entry == -1 ? int32_t(steps) : -1;
  }
  for (int64_t t = 0; t < steps; ++t) {
    const int64_t action = args.actions[b * steps + t];
    const bool in_range = action >= 0 && action < 2 * dim;
    is_valid &= in_range && times[action / 2] == steps;
    if (in_range) times[action / 2] = int32_t(t);
  }
  times[dim] = is_valid;
}

}  // namespace

void trajectory_set_times(const SetTimeArgs& args, void*) {
  torch::stable::parallel_for(0, args.shape.batch, grain(args.shape.dim + args.shape.steps),
                              [&](int64_t begin, int64_t end) {
                                for (int64_t b = begin; b < end; ++b) set_times_of(args, b);
                              });
}

template <class S>
void trajectory_rows(const TrajectoryRows<S>& args, void*) {
  torch::stable::parallel_for(0, args.rows, grain(3 * args.shape.dim),
                              [&](int64_t begin, int64_t end) { SVGDX_ISA_CALL(trajectory_rows, args, begin, end); });
}

template <class S>
void trajectory_rows_backward(const TrajectoryRowsGrad<S>& args, void*) {
  torch::stable::parallel_for(0, args.rows, grain(3 * args.shape.dim), [&](int64_t begin, int64_t end) {
    SVGDX_ISA_CALL(trajectory_rows_backward, args, begin, end);
  });
}

template <class C>
void trajectory_sum(const TrajectoryShape& shape, const C* row_log_prob, C* log_pf, C* log_pb, void*) {
  for (int64_t b = 0; b < shape.batch; ++b) {
    double forward = 0, backward = 0;
    const C* rows = row_log_prob + 2 * b * (shape.steps + 1);
    for (int64_t t = 0; t <= shape.steps; ++t) {
      forward += rows[2 * t];
      backward += rows[2 * t + 1];
    }
    log_pf[b] = C(forward);
    log_pb[b] = C(backward);
  }
}

template <class S>
void masked_rows(const MaskedRows<S>& args, void*) {
  torch::stable::parallel_for(0, args.rows, grain(args.width),
                              [&](int64_t begin, int64_t end) { SVGDX_ISA_CALL(masked_rows, args, begin, end); });
}

template <class S>
void masked_rows_backward(const MaskedRowsGrad<S>& args, void*) {
  torch::stable::parallel_for(0, args.rows, grain(args.width), [&](int64_t begin, int64_t end) {
    SVGDX_ISA_CALL(masked_rows_backward, args, begin, end);
  });
}

void check_offsets(int64_t segments, int64_t rows, const int64_t* offsets, int32_t* valid, void*) {
  *valid = offsets[0] == 0 && offsets[segments] == rows && std::is_sorted(offsets, offsets + segments + 1);
}

template <class C>
void segment_sum(int64_t segments, const int64_t* offsets, const int32_t* valid, const C* in, C* out, void*) {
  for (int64_t b = 0; b < segments; ++b) {
    double sum = *valid ? 0 : std::numeric_limits<double>::quiet_NaN();
    for (int64_t n = offsets[b]; *valid && n < offsets[b + 1]; ++n) sum += in[n];
    out[b] = C(sum);
  }
}

#define SVGDX_INSTANTIATE(S)                                                   \
  template void trajectory_rows(const TrajectoryRows<S>&, void*);              \
  template void trajectory_rows_backward(const TrajectoryRowsGrad<S>&, void*); \
  template void masked_rows(const MaskedRows<S>&, void*);                      \
  template void masked_rows_backward(const MaskedRowsGrad<S>&, void*);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)
SVGDX_INSTANTIATE(Bf16)
SVGDX_INSTANTIATE(Fp16)

template void trajectory_sum(const TrajectoryShape&, const float*, float*, float*, void*);
template void trajectory_sum(const TrajectoryShape&, const double*, double*, double*, void*);
template void segment_sum(int64_t, const int64_t*, const int32_t*, const float*, float*, void*);
template void segment_sum(int64_t, const int64_t*, const int32_t*, const double*, double*, void*);

}  // namespace svgdx::cpu
