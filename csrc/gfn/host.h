// Host layer of the GFlowNet ops between torch and a backend: argument checks, outputs, scratch. Written once; the CPU
// and CUDA libraries instantiate GfnOps with their own Backend.
#pragma once

#include <cfloat>
#include <tuple>

#include "common/storage.h"
#include "common/tensors.h"
#include "gfn/explain.h"
#include "gfn/gfn.h"

namespace svgdx {

inline void check_draw(const char* op, double temperature, double epsilon) {
  SVGDX_CHECK(std::isfinite(temperature) && temperature > 0, op, "temperature must be positive and finite, but is ",
              temperature);
  SVGDX_CHECK(epsilon >= 0 && epsilon <= 1, op, "epsilon must be in [0, 1], but is ", epsilon);
}

// The factor that turns logits into exponents of two. It must stay finite for temperatures near zero, or zero times it
// would be NaN.
inline float draw_scale(double temperature) {
  return float(std::min(1.4426950408889634 / temperature, double(FLT_MAX)));
}

inline Sizes joined(Sizes lead, const Sizes& rest) {
  lead.insert(lead.end(), rest.begin(), rest.end());
  return lead;
}

// Trajectories: rows (..., T+1, width) with actions (..., T) and initial_state (..., D).
template <class Backend>
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
    Backend::trajectory_set_times(args, Backend::stream(rows));
    if (rows.is_cpu()) explain_trajectories(op, args);
  }

  Sizes with(const Sizes& rest) const { return joined(lead, rest); }
};

template <class Backend>
struct GfnOps {
  using Guard = typename Backend::Guard;

  // ---- gfn_trajectory_log_prob ----

  static Walks<Backend> walks(const char* op, const Tensor& logits, const Tensor& actions,
                              const OptionalTensor& initial) {
    check_floating(op, "logits", logits);
    SVGDX_CHECK(logits.dim() >= 2 && logits.size(logits.dim() - 1) % 3 == 0, op,
                "logits must have shape (..., T+1, 3D), but has ", text(sizes_of(logits)));
    return Walks<Backend>(op, "logits", logits, logits.size(logits.dim() - 1) / 3, actions, initial);
  }

  static std::tuple<Tensor, Tensor, Tensor> trajectory(const Tensor& logits, const Tensor& actions,
                                                       const OptionalTensor& initial_state) {
    const Guard guard(logits);
    const auto w = walks("gfn_trajectory_log_prob", logits, actions, initial_state);
    return log_probs(w, logits, [&](auto storage, auto* normalizers, auto* row_log_prob) {
      using S = decltype(storage);
      const Tensor rows = dense(logits);
      Backend::template trajectory_rows<S>({w.shape, 0, w.shape.rows(), data<S>(rows), data<int64_t>(w.actions),
                                            data<int32_t>(w.set_time), normalizers, row_log_prob},
                                           Backend::stream(logits));
    });
  }

  // Allocates the outputs and sums the rows' terms, which rows(storage, normalizers, row_log_prob) computes.
  template <class F>
  static std::tuple<Tensor, Tensor, Tensor> log_probs(const Walks<Backend>& w, const Tensor& like, F rows) {
    const ScalarType type = compute_type(like.scalar_type());
    const Tensor log_pf = new_zeros(like, w.lead, type), log_pb = new_zeros(like, w.lead, type);
    const Tensor normalizers = new_zeros(like, w.with({w.shape.steps + 1, 2}), type);
    if (w.shape.batch == 0 || w.shape.dim == 0) return {log_pf, log_pb, normalizers};
    const Tensor terms = new_empty(like, {w.shape.batch, w.shape.steps + 1, 2}, type);
    with_storage(like.scalar_type(), [&](auto storage) {
      using C = Compute<decltype(storage)>;
      rows(storage, out<C>(normalizers), out<C>(terms));
      Backend::template trajectory_sum<C>(w.shape, data<C>(terms), out<C>(log_pf), out<C>(log_pb),
                                          Backend::stream(like));
    });
    return {log_pf, log_pb, normalizers};
  }

  static OptionalTensor upstream(const Walks<Backend>& w, const char* name, const OptionalTensor& grad,
                                 const Tensor& like) {
    if (!grad) return grad;
    check_shape(w.op, name, *grad, w.lead, "the leading shape");
    return as_dense(*grad, compute_type(like.scalar_type()));
  }

  // The normalizers that the forward pass saved, (..., T+1, 2).
  static Tensor saved(const Walks<Backend>& w, const Tensor& normalizers, const Tensor& like) {
    check_shape(w.op, "normalizers", normalizers, w.with({w.shape.steps + 1, 2}), "shape (..., T+1, 2)");
    check_device(w.op, "normalizers", normalizers, like);
    return as_dense(normalizers, compute_type(like.scalar_type()));
  }

  static Tensor trajectory_backward(const OptionalTensor& grad_log_pf, const OptionalTensor& grad_log_pb,
                                    const Tensor& logits, const Tensor& actions, const OptionalTensor& initial_state,
                                    const Tensor& normalizers) {
    const Guard guard(logits);
    const auto w = walks("gfn_trajectory_log_prob_backward", logits, actions, initial_state);
    const OptionalTensor g = upstream(w, "grad_log_pf", grad_log_pf, logits);
    const OptionalTensor h = upstream(w, "grad_log_pb", grad_log_pb, logits);
    const Tensor grad = new_empty(logits, sizes_of(logits), logits.scalar_type());
    if (grad.numel() == 0) return grad;
    const Tensor rows = dense(logits), sums = saved(w, normalizers, logits);
    with_storage(logits.scalar_type(), [&](auto storage) {
      using S = decltype(storage);
      using C = Compute<S>;
      Backend::template trajectory_rows_backward<S>(
          {w.shape, 0, w.shape.rows(), data<S>(rows), data<int64_t>(w.actions), data<int32_t>(w.set_time),
           data<C>(sums), data<C>(g), data<C>(h), out<S>(grad)},
          Backend::stream(logits));
    });
    return grad;
  }

  // ---- masked_trajectory_log_prob ----

  static void check_masked(const char* op, const Tensor& logits, const Tensor& mask, const Tensor& actions,
                           const Tensor& offsets) {
    check_floating(op, "logits", logits);
    SVGDX_CHECK(logits.dim() == 2, op, "logits must have shape (N, A), but has ", text(sizes_of(logits)));
    SVGDX_CHECK(logits.size(1) < INT32_MAX, op, "logits is too large: ", text(sizes_of(logits)));
    check_dtype(op, "mask", mask, ScalarType::Bool);
    check_shape(op, "mask", mask, sizes_of(logits), "the shape of logits");
    check_dtype(op, "actions", actions, ScalarType::Long);
    check_shape(op, "actions", actions, {logits.size(0)}, "shape (N,)");
    check_dtype(op, "offsets", offsets, ScalarType::Long);
    SVGDX_CHECK(offsets.dim() == 1 && offsets.size(0) >= 1, op, "offsets must have shape (B+1,), but has ",
                text(sizes_of(offsets)));
    check_device(op, "mask", mask, logits);
    check_device(op, "actions", actions, logits);
    check_device(op, "offsets", offsets, logits);
  }

  static std::tuple<Tensor, Tensor> masked(const Tensor& logits, const Tensor& mask, const Tensor& actions,
                                           const Tensor& offsets) {
    const Guard guard(logits);
    const char* op = "masked_trajectory_log_prob";
    check_masked(op, logits, mask, actions, offsets);
    const Tensor l = dense(logits), m = dense(mask), a = dense(actions), o = dense(offsets);
    const int64_t rows = l.size(0), width = l.size(1), segments = o.size(0) - 1;
    if (logits.is_cpu()) {
      explain_offsets(op, segments, rows, data<int64_t>(o));
      explain_masked(op, rows, width, data<bool>(m), data<int64_t>(a));
    }
    const ScalarType type = compute_type(logits.scalar_type());
    const Tensor result = new_zeros(logits, {segments}, type), normalizers = new_zeros(logits, {rows}, type);
    const Tensor terms = new_empty(logits, {rows}, type);
    with_storage(logits.scalar_type(), [&](auto storage) {
      using S = decltype(storage);
      using C = Compute<S>;
      if (rows > 0) {
        Backend::template masked_rows<S>(
            {rows, width, data<S>(l), data<bool>(m), data<int64_t>(a), out<C>(normalizers), out<C>(terms)},
            Backend::stream(logits));
      }
      if (segments == 0) return;
      Backend::template segment_sum<C>(segments, rows, data<int64_t>(o), data<C>(terms), out<C>(result),
                                       Backend::stream(logits));
    });
    return {result, normalizers};
  }

  static Tensor masked_backward(const Tensor& grad, const Tensor& logits, const Tensor& mask, const Tensor& actions,
                                const Tensor& offsets, const Tensor& normalizers) {
    const Guard guard(logits);
    const char* op = "masked_trajectory_log_prob_backward";
    check_masked(op, logits, mask, actions, offsets);
    check_shape(op, "grad", grad, {offsets.size(0) - 1}, "shape (B,)");
    check_shape(op, "normalizers", normalizers, {logits.size(0)}, "shape (N,)");
    check_device(op, "normalizers", normalizers, logits);
    const ScalarType type = compute_type(logits.scalar_type());
    const Tensor l = dense(logits), m = dense(mask), a = dense(actions), o = dense(offsets);
    const Tensor g = as_dense(grad, type), sums = as_dense(normalizers, type);
    const Tensor result = new_empty(logits, sizes_of(logits), logits.scalar_type());
    if (result.numel() == 0) return result;
    with_storage(logits.scalar_type(), [&](auto storage) {
      using S = decltype(storage);
      using C = Compute<S>;
      Backend::template masked_rows_backward<S>(
          {l.size(0), l.size(1), o.size(0) - 1, data<S>(l), data<bool>(m), data<int64_t>(a), data<int64_t>(o),
           data<C>(sums), data<C>(g), out<S>(result)},
          Backend::stream(logits));
    });
    return result;
  }

  // ---- gfn_sample ----

  static std::tuple<Tensor, Tensor, Tensor> sample(const char* op, bool forward, const Tensor& logits,
                                                   const Tensor& state, int64_t seed, int64_t offset,
                                                   double temperature, double epsilon) {
    const Guard guard(logits);
    check_floating(op, "logits", logits);
    check_dtype(op, "state", state, ScalarType::Char);
    check_device(op, "state", state, logits);
    const Sizes sizes = sizes_of(state);
    SVGDX_CHECK(!sizes.empty(), op, "state must have shape (..., D), but has ", text(sizes));
    const Sizes lead(sizes.begin(), sizes.end() - 1);
    const int64_t dim = sizes.back(), batch = product_of(lead);
    SVGDX_CHECK(dim < INT32_MAX / 3, op, "state is too large: ", text(sizes));
    check_shape(op, "logits", logits, joined(lead, {3 * dim}), "shape (..., 3D)");
    check_draw(op, temperature, epsilon);
    const Tensor action = new_empty(logits, lead, ScalarType::Long), next = new_empty(state, sizes, ScalarType::Char);
    const Tensor log_prob = new_empty(logits, lead, compute_type(logits.scalar_type()));
    if (batch == 0) return {action, log_prob, next};
    const Tensor l = dense(logits), s = dense(state);
    with_storage(logits.scalar_type(), [&](auto storage) {
      using S = decltype(storage);
      const SampleArgs<S> args{batch,
                               dim,
                               data<S>(l),
                               data<int8_t>(s),
                               forward,
                               uint64_t(seed),
                               uint64_t(offset),
                               draw_scale(temperature),
                               float(epsilon),
                               out<int64_t>(action),
                               out<Compute<S>>(log_prob),
                               out<int8_t>(next)};
      Backend::template gfn_sample<S>(args, Backend::stream(logits));
      if (logits.is_cpu()) explain_sample(op, args);
    });
    return {action, log_prob, next};
  }

  static std::tuple<Tensor, Tensor, Tensor> sample_forward(const Tensor& logits, const Tensor& state, int64_t seed,
                                                           int64_t offset, double temperature, double epsilon) {
    return sample("gfn_sample_forward", true, logits, state, seed, offset, temperature, epsilon);
  }
  static std::tuple<Tensor, Tensor, Tensor> sample_backward(const Tensor& logits, const Tensor& state, int64_t seed,
                                                            int64_t offset, double temperature, double epsilon) {
    return sample("gfn_sample_backward", false, logits, state, seed, offset, temperature, epsilon);
  }
};

}  // namespace svgdx
