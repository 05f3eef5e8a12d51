// Rows of trajectories: the masks follow from set_time, so that any thread can start at any row.
#include "memory/buffer.h"
#include "trajectory/cpu/kernels.h"
#include "trajectory/cpu/narrow.h"
#include "trajectory/cpu/row.h"

namespace svgdx::SVGDX_ISA {
namespace {

// The set_time of one trajectory in the form that the masks compare, one lane per logit, and a buffer for one row.
template <class C>
class Workspace {
 public:
  Workspace(const TrajectoryShape& shape, const int32_t* set_time)
      : dim_(shape.dim),
        steps_(shape.steps),
        set_time_(set_time),
        forward_(padded<C>(2 * shape.dim)),
        backward_(padded<C>(shape.dim)),
        row_(padded<C>(2 * shape.dim) + padded<C>(shape.dim)),
        wide_(3 * shape.dim) {
    // The padding is invalid in both masks.
    std::fill(forward_.get(), forward_.get() + padded<C>(2 * dim_), Mask<C>(-1));
    std::fill(backward_.get(), backward_.get() + padded<C>(dim_), std::numeric_limits<Mask<C>>::max());
  }

  // Moves to row `row` of the B (T + 1).
  void turn_to(int64_t row) {
    t = row % (steps_ + 1);
    const int64_t next = row / (steps_ + 1);
    if (next == b) return;
    b = next;
    const int32_t* times = set_time_ + b * (dim_ + 1);
    is_valid = times[dim_] != 0;
    for (int64_t d = 0; d < dim_; ++d) {
      forward_.get()[2 * d] = forward_.get()[2 * d + 1] = times[d];
      backward_.get()[d] = times[d];
    }
  }

  C fill_forward(const C* logits) { return fill_masked<true>(logits, 2 * dim_, forward_.get(), t, forward_row()); }
  C fill_backward(const C* logits) {
    return fill_masked<false>(logits + 2 * dim_, dim_, backward_.get(), t, backward_row());
  }
  C* forward_row() { return row_.get(); }
  C* backward_row() { return row_.get() + padded<C>(2 * dim_); }
  C* wide() { return wide_.get(); }

  int64_t b = -1, t = 0;
  bool is_valid = false;

 private:
  int64_t dim_, steps_;
  const int32_t* set_time_;
  Buffer<Mask<C>> forward_, backward_;
  Buffer<C> row_, wide_;
};

}  // namespace

template <class S>
void trajectory_rows(const TrajectoryRows<S>& args, int64_t begin, int64_t end) {
  using C = Compute<S>;
  const int64_t dim = args.shape.dim, steps = args.shape.steps;
  if (dim <= kNarrowDim<C>) return narrow_rows(args, begin, end);
  Workspace<C> work(args.shape, args.set_time);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = args.first_row + i;
    work.turn_to(row);
    C* normalizer = args.normalizers + 2 * row;
    C* log_prob = args.row_log_prob + 2 * row;
    if (!work.is_valid) {
      std::fill(normalizer, normalizer + 2, std::numeric_limits<C>::quiet_NaN());
      std::fill(log_prob, log_prob + 2, std::numeric_limits<C>::quiet_NaN());
      continue;
    }
    const C* logits = as_compute(args.logits + i * 3 * dim, 3 * dim, work.wide());
    const int64_t* actions = args.actions + work.b * steps;
    normalizer[0] = normalizer[1] = log_prob[0] = log_prob[1] = 0;
    if (work.t < steps) {
      const C most = work.fill_forward(logits);
      normalizer[0] = log_sum_exp(work.forward_row(), 2 * dim, most, args.logits + (i + 1) * 3 * dim);
      log_prob[0] = logits[actions[work.t]] - normalizer[0];
    }
    if (work.t > 0) {
      const C most = work.fill_backward(logits);
      normalizer[1] = log_sum_exp(work.backward_row(), dim, most, args.logits + (i + 1) * 3 * dim + 2 * dim);
      log_prob[1] = logits[2 * dim + actions[work.t - 1] / 2] - normalizer[1];
    }
  }
}

template <class S>
void trajectory_rows_backward(const TrajectoryRowsGrad<S>& args, int64_t begin, int64_t end) {
  using C = Compute<S>;
  const int64_t dim = args.shape.dim, steps = args.shape.steps;
  if (dim <= kNarrowDim<C>) return narrow_rows_backward(args, begin, end);
  Workspace<C> work(args.shape, args.set_time);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = args.first_row + i;
    work.turn_to(row);
    C* forward = work.forward_row();
    C* backward = work.backward_row();
    S* grad = args.grad_logits + i * 3 * dim;
    if (!work.is_valid) {
      std::fill(forward, forward + 2 * dim, std::numeric_limits<C>::quiet_NaN());
      write_row(forward, 2 * dim, grad);
      write_row(forward, dim, grad + 2 * dim);
      continue;
    }
    const C* logits = as_compute(args.logits + i * 3 * dim, 3 * dim, work.wide());
    const int64_t* actions = args.actions + work.b * steps;
    const bool with_forward = args.grad_log_pf && work.t < steps, with_backward = args.grad_log_pb && work.t > 0;
    if (with_forward) {
      work.fill_forward(logits);
      log_softmax_grad_row(forward, 2 * dim, args.normalizers[2 * row], args.grad_log_pf[work.b], actions[work.t],
                           args.logits + (i + 1) * 3 * dim, grad);
    } else {
      std::fill(forward, forward + 2 * dim, C(0));
    }
    if (with_backward) {
      work.fill_backward(logits);
      log_softmax_grad_row(backward, dim, args.normalizers[2 * row + 1], args.grad_log_pb[work.b],
                           actions[work.t - 1] / 2, args.logits + (i + 1) * 3 * dim + 2 * dim, grad + 2 * dim);
    } else {
      std::fill(backward, backward + dim, C(0));
    }
    // Both halves are in the buffer before the row is written, because grad_logits may be the logits themselves.
    write_row(forward, 2 * dim, grad);
    write_row(backward, dim, grad + 2 * dim);
  }
}

#define SVGDX_INSTANTIATE(S)                                                 \
  template void trajectory_rows(const TrajectoryRows<S>&, int64_t, int64_t); \
  template void trajectory_rows_backward(const TrajectoryRowsGrad<S>&, int64_t, int64_t);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)
SVGDX_INSTANTIATE(Bf16)
SVGDX_INSTANTIATE(Fp16)

}  // namespace svgdx::SVGDX_ISA
