// What the host layers of gfn_trajectory_log_prob and linear_trajectory_log_prob share.
#pragma once

#include <tuple>

#include "common/backend.h"
#include "common/storage.h"
#include "trajectory/args.h"
#include "trajectory/explain.h"
#include SVGDX_BACKEND_HEADER(common, device.h)

namespace svgdx::SVGDX_BACKEND {

// Trajectories: rows (..., T+1, width) with actions (..., T) and initial_state (..., D).
struct Walks {
  const char* op;
  Sizes lead;
  TrajectoryShape shape{1, 0, 0};
  Tensor actions, set_time;
  OptionalTensor initial;

  Walks(const char* op, const char* name, const Tensor& rows, int64_t dim, const Tensor& actions_in,
        const OptionalTensor& initial_in)
      : op(op), actions(dense(actions_in)), set_time(actions_in) {
    const Sizes sizes = sizes_of(rows);
    lead = Sizes(sizes.begin(), sizes.end() - 2);
    const int64_t states = sizes[sizes.size() - 2];
    SVGDX_CHECK(states >= 1, op, name, " must hold at least the row of s_0, but has shape ", text(sizes));
    shape = {product_of(lead), states - 1, dim};
    // The kernels hold steps and positions within a row as 32-bit numbers.
    SVGDX_CHECK(shape.steps < INT32_MAX && dim < INT32_MAX / 3, op, name, " is too large: ", text(sizes));
    check_dtype(op, "actions", actions_in, ScalarType::Long);
    check_device(op, "actions", actions_in, rows);
    check_shape(op, "actions", actions_in, joined(lead, {shape.steps}), "shape (..., T)");
    if (initial_in) {
      check_dtype(op, "initial_state", *initial_in, ScalarType::Char);
      check_device(op, "initial_state", *initial_in, rows);
      check_shape(op, "initial_state", *initial_in, joined(lead, {dim}), "shape (..., D)");
      initial = dense(*initial_in);
    }
    set_time = new_empty(rows, {shape.batch, dim + 1}, ScalarType::Int);
    if (shape.batch == 0) return;
    const SetTimeArgs args{shape, data<int64_t>(actions), data<int8_t>(initial), out<int32_t>(set_time)};
    trajectory_set_times(args, stream(rows));
    if (rows.is_cpu()) explain_trajectories(op, args);
  }

  Sizes with(const Sizes& rest) const { return joined(lead, rest); }
};

// Allocates the outputs and sums the rows' terms, which rows(storage, normalizers, row_log_prob) computes.
template <class F>
std::tuple<Tensor, Tensor, Tensor> log_probs(const Walks& w, const Tensor& like, F rows) {
  const ScalarType type = compute_type(like.scalar_type());
  const bool none = w.shape.batch == 0 || w.shape.dim == 0;  // otherwise every element is written
  const auto empty = [&](const Sizes& sizes) {
    return none ? new_zeros(like, sizes, type) : new_empty(like, sizes, type);
  };
  const Tensor log_pf = empty(w.lead), log_pb = empty(w.lead), normalizers = empty(w.with({w.shape.steps + 1, 2}));
  if (none) return {log_pf, log_pb, normalizers};
  const Tensor terms = new_empty(like, {w.shape.batch, w.shape.steps + 1, 2}, type);
  with_storage(like.scalar_type(), [&](auto storage) {
    using C = Compute<decltype(storage)>;
    rows(storage, out<C>(normalizers), out<C>(terms));
    trajectory_sum<C>(w.shape, data<C>(terms), out<C>(log_pf), out<C>(log_pb), stream(like));
  });
  return {log_pf, log_pb, normalizers};
}

inline OptionalTensor upstream(const Walks& w, const char* name, const OptionalTensor& grad, const Tensor& like) {
  if (!grad) return grad;
  check_shape(w.op, name, *grad, w.lead, "the leading shape");
  return as_dense(*grad, compute_type(like.scalar_type()));
}

// The normalizers that the forward pass saved, (..., T+1, 2).
inline Tensor saved(const Walks& w, const Tensor& normalizers, const Tensor& like) {
  check_shape(w.op, "normalizers", normalizers, w.with({w.shape.steps + 1, 2}), "shape (..., T+1, 2)");
  check_device(w.op, "normalizers", normalizers, like);
  return as_dense(normalizers, compute_type(like.scalar_type()));
}

}  // namespace svgdx::SVGDX_BACKEND
