// Host layer of gfn_trajectory_log_prob and masked_trajectory_log_prob, compiled once for each backend.
#include "common/registration.h"
#include "trajectory/host.h"

namespace svgdx::SVGDX_BACKEND {

static Walks walks(const char* op, const Tensor& logits, const Tensor& actions, const OptionalTensor& initial) {
  check_floating(op, "logits", logits);
  SVGDX_CHECK(logits.dim() >= 2 && logits.size(logits.dim() - 1) % 3 == 0, op,
              "logits must have shape (..., T+1, 3D), but has ", text(sizes_of(logits)));
  return Walks(op, "logits", logits, logits.size(logits.dim() - 1) / 3, actions, initial);
}

static std::tuple<Tensor, Tensor, Tensor> trajectory(const Tensor& logits, const Tensor& actions,
                                                     const OptionalTensor& initial_state) {
  const Guard guard(logits);
  const auto w = walks("gfn_trajectory_log_prob", logits, actions, initial_state);
  return log_probs(w, logits, [&](auto storage, auto* normalizers, auto* row_log_prob) {
    using S = decltype(storage);
    const Tensor rows = dense(logits);
    trajectory_rows<S>({w.shape, 0, w.shape.rows(), data<S>(rows), data<int64_t>(w.actions), data<int32_t>(w.set_time),
                        normalizers, row_log_prob},
                       stream(logits));
  });
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
    trajectory_rows_backward<S>({w.shape, 0, w.shape.rows(), data<S>(rows), data<int64_t>(w.actions),
                                 data<int32_t>(w.set_time), data<C>(sums), data<C>(g), data<C>(h), out<S>(grad)},
                                stream(logits));
  });
  return grad;
}

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
  const Tensor result = new_empty(logits, {segments}, type), normalizers = new_empty(logits, {rows}, type);
  const Tensor terms = new_empty(logits, {rows}, type), valid = new_empty(logits, {1}, ScalarType::Int);
  check_offsets(segments, rows, data<int64_t>(o), out<int32_t>(valid), stream(logits));
  with_storage(logits.scalar_type(), [&](auto storage) {
    using S = decltype(storage);
    using C = Compute<S>;
    if (rows > 0) {
      masked_rows<S>({rows, width, data<S>(l), data<bool>(m), data<int64_t>(a), out<C>(normalizers), out<C>(terms),
                      data<int32_t>(valid)},
                     stream(logits));
    }
    if (segments == 0) return;
    segment_sum<C>(segments, data<int64_t>(o), data<int32_t>(valid), data<C>(terms), out<C>(result), stream(logits));
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
    masked_rows_backward<S>({l.size(0), l.size(1), o.size(0) - 1, data<S>(l), data<bool>(m), data<int64_t>(a),
                             data<int64_t>(o), data<C>(sums), data<C>(g), out<S>(result)},
                            stream(logits));
  });
  return result;
}

SVGDX_OPS(m) {
  m.op(
      "gfn_trajectory_log_prob_forward(Tensor logits, Tensor actions, Tensor? initial_state=None) -> (Tensor, Tensor, "
      "Tensor)",
      TORCH_BOX(&trajectory));
  m.op(
      "gfn_trajectory_log_prob_backward(Tensor? grad_log_pf, Tensor? grad_log_pb, Tensor logits, Tensor actions, "
      "Tensor? initial_state, Tensor normalizers) -> Tensor",
      TORCH_BOX(&trajectory_backward));
  m.op(
      "masked_trajectory_log_prob_forward(Tensor logits, Tensor mask, Tensor actions, Tensor offsets) -> (Tensor, "
      "Tensor)",
      TORCH_BOX(&masked));
  m.op(
      "masked_trajectory_log_prob_backward(Tensor grad, Tensor logits, Tensor mask, Tensor actions, Tensor offsets, "
      "Tensor normalizers) -> Tensor",
      TORCH_BOX(&masked_backward));
}

}  // namespace svgdx::SVGDX_BACKEND
