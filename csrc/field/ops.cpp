// Host layer of svgd_phi, svgd_phi_trace, svgd_step and svgd_field: argument checks, outputs and scratch, compiled once
// for each backend.
#include "common/registration.h"
#include "field/host.h"

namespace svgdx::SVGDX_BACKEND {

static Tensor svgd_phi(const Tensor& x, const Tensor& score, const Tensor& bandwidth) {
  const Guard guard(x);
  const Particles p("svgd_phi", x, score, kReadsStored);
  const Tensor phi = p.stored_like_x();
  typed(p.compute, [&](auto zero) {
    using T = decltype(zero);
    const Numbers<T> sigma(p.op, "bandwidth", bandwidth, x, p.lead, true);
    if (p.empty()) return;
    FieldArgs<T> args{field_shape(p), data<T>(p.x), data<T>(p.x), data<T>(p.score), sigma.view(), true, out<T>(phi)};
    forward(p, args);
  });
  return p.result(phi);
}

static std::tuple<Tensor, Tensor> svgd_phi_trace(const Tensor& x, const Tensor& score, const Tensor& bandwidth) {
  const Guard guard(x);
  const Particles p("svgd_phi_trace", x, score, kReadsStored);
  const Tensor phi = p.stored_like_x(), trace = p.dim ? p.per_row() : new_zeros(p.x, p.rows_shape, p.compute);
  typed(p.compute, [&](auto zero) {
    using T = decltype(zero);
    const Numbers<T> sigma(p.op, "bandwidth", bandwidth, x, p.lead, true);
    if (p.empty()) return;
    forward(p, FieldArgs<T>{field_shape(p), data<T>(p.x), data<T>(p.x), data<T>(p.score), sigma.view(), true,
                            out<T>(phi), out<T>(trace)});
  });
  return {p.result(phi), p.result(trace)};
}

static std::tuple<Tensor, Tensor, Tensor> svgd_phi_trace_backward(const OptionalTensor& grad_phi,
                                                                  const OptionalTensor& grad_trace, const Tensor& x,
                                                                  const Tensor& score, const Tensor& bandwidth,
                                                                  bool needs_bandwidth) {
  const Guard guard(x);
  const Particles p("svgd_phi_trace_backward", x, score, reads_stored(x, grad_phi));
  const OptionalTensor g = p.like_x("grad_phi", grad_phi), h = p.per_row("grad_trace", grad_trace);
  return particle_backward(p, g, h, bandwidth, needs_bandwidth);
}

// log_q and hessian_trace may be float32 even if x is in half precision; the sum is formed in float32.
static void check_log_q(const Particles& p, const char* name, const Tensor& t, const Tensor& x) {
  check_floating(p.op, name, t);
  const ScalarType type = t.scalar_type();
  SVGDX_CHECK(type == p.input || type == p.compute, p.op, name, " must have the dtype of x, ", name_of(p.input),
              p.input == p.compute ? "" : " or float32", ", but is ", name_of(type));
  check_shape(p.op, name, t, p.rows_shape, "the shape of x without its last dimension");
  check_device(p.op, name, t, x);
}

static std::tuple<Tensor, Tensor> svgd_step(const Tensor& x, const Tensor& score, const Tensor& bandwidth,
                                            const Tensor& step_size, const Tensor& log_q,
                                            const OptionalTensor& hessian_trace) {
  const Guard guard(x);
  const Particles p("svgd_step", x, score, kReadsStored);
  check_log_q(p, "log_q", log_q, x);
  if (hessian_trace) check_log_q(p, "hessian_trace", *hessian_trace, x);
  const Tensor log_q_in = as_dense(log_q, p.compute);
  const OptionalTensor hessian = as_dense(hessian_trace, p.compute);
  const Tensor x_next = p.stored_like_x();
  Tensor log_q_next = p.per_row();
  typed(p.compute, [&](auto zero) {
    using T = decltype(zero);
    const Numbers<T> sigma(p.op, "bandwidth", bandwidth, x, p.lead, true);
    const Numbers<T> eps(p.op, "step_size", step_size, x, p.lead, false);
    if (p.batch == 0 || p.count == 0) return;
    if (p.dim == 0) {
      log_q_next = torch::stable::clone(log_q_in);
      return;
    }
    FieldArgs<T> args{field_shape(p), data<T>(p.x), data<T>(p.x),   data<T>(p.score),
                      sigma.view(),   true,         out<T>(x_next), out<T>(log_q_next)};
    args.step = eps.view();
    args.log_q = data<T>(log_q_in);
    args.hessian_trace = data<T>(hessian);
    forward(p, args);
  });
  return {p.result(x_next), as_type(log_q_next, log_q.scalar_type())};
}

static std::tuple<Tensor, Tensor, Tensor, Tensor> svgd_step_backward(const OptionalTensor& grad_x_next,
                                                                     const OptionalTensor& grad_log_q_next,
                                                                     const Tensor& x, const Tensor& score,
                                                                     const Tensor& bandwidth, const Tensor& step_size,
                                                                     const OptionalTensor& hessian_trace,
                                                                     bool needs_bandwidth, bool needs_step_size) {
  const Guard guard(x);
  const Particles p("svgd_step_backward", x, score, reads_stored(x, grad_x_next));
  const OptionalTensor g = p.like_x("grad_x_next", grad_x_next), h = p.per_row("grad_log_q_next", grad_log_q_next);
  const OptionalTensor hessian = p.per_row("hessian_trace", hessian_trace);
  if (p.empty()) {
    return {zeros(x, p), zeros(x, p), zeros_if(needs_bandwidth, bandwidth), zeros_if(needs_step_size, step_size)};
  }
  const Tensor grad_x = p.stored_like_x(), grad_score = p.stored_like_x();
  const OptionalTensor log_sigma = row_shares_if(needs_bandwidth, p, p.rows_shape);
  const OptionalTensor dot = p.per_row_if(needs_step_size);
  Tensor grad_bandwidth = not_needed(bandwidth), grad_step = not_needed(step_size);
  typed(p.compute, [&](auto zero) {
    using T = decltype(zero);
    const Numbers<T> sigma(p.op, "bandwidth", bandwidth, x, p.lead, true);
    const Numbers<T> eps(p.op, "step_size", step_size, x, p.lead, false);
    FieldGradArgs<T> args = self_args<T>(p, g, h, sigma);
    args.step = eps.view();
    args.hessian_trace = data<T>(hessian);
    args.grad_x = out<T>(grad_x);
    args.grad_score = out<T>(grad_score);
    args.grad_log_sigma = out<RowShare<T>>(log_sigma);
    args.dot = out<T>(dot);
    backward(p, args);
    if (log_sigma) grad_bandwidth = sum_rows<T, RowShare<T>>(p, *log_sigma, bandwidth, sigma.view());
    if (dot) grad_step = sum_rows<T>(p, *dot, step_size, {});
  });
  return {p.result(grad_x), p.result(grad_score), grad_bandwidth, grad_step};
}

static Sizes query_shape(const Particles& p, const Tensor& query, const Tensor& x) {
  check_same_dtype(p.op, "query", query, p.input);
  check_device(p.op, "query", query, x);
  const Sizes shape = sizes_of(query);
  SVGDX_CHECK(shape.size() == p.shape.size() && shape.back() == p.dim &&
                  std::equal(p.lead.begin(), p.lead.end(), shape.begin()),
              p.op, "query must have the shape of x, ", text(p.shape), ", but for its number of points, and has ",
              text(shape));
  return shape;
}

static std::tuple<Tensor, Tensor> svgd_field(const Tensor& query, const Tensor& x, const Tensor& score,
                                             const Tensor& bandwidth) {
  const Guard guard(x);
  const Particles p("svgd_field", x, score, kReadsStored);
  const Sizes shape = query_shape(p, query, x);
  const int64_t rows = shape[shape.size() - 2];
  const ScalarType type = p.x.scalar_type();
  const Tensor points = as_dense(query, type);
  const Sizes rows_shape(shape.begin(), shape.end() - 1);
  const bool none = p.count == 0 || p.dim == 0;  // without particles the field is zero
  const Tensor phi = none ? new_zeros(p.x, shape, type) : new_empty(p.x, shape, type);
  const Tensor divergence = none ? new_zeros(p.x, rows_shape, p.compute) : new_empty(p.x, rows_shape, p.compute);
  typed(p.compute, [&](auto zero) {
    using T = decltype(zero);
    const Numbers<T> sigma(p.op, "bandwidth", bandwidth, x, p.lead, true);
    if (p.empty() || rows == 0) return;
    forward(p, FieldArgs<T>{{p.batch, rows, p.count, p.dim},
                            data<T>(points),
                            data<T>(p.x),
                            data<T>(p.score),
                            sigma.view(),
                            false,
                            out<T>(phi),
                            out<T>(divergence)});
  });
  return {p.result(phi), p.result(divergence)};
}

static std::tuple<Tensor, Tensor, Tensor, Tensor> svgd_field_backward(const OptionalTensor& grad_phi,
                                                                      const OptionalTensor& grad_divergence,
                                                                      const Tensor& query, const Tensor& x,
                                                                      const Tensor& score, const Tensor& bandwidth,
                                                                      bool needs_bandwidth) {
  const Guard guard(x);
  const Particles p("svgd_field_backward", x, score, reads_stored(x, grad_phi));
  const Sizes shape = query_shape(p, query, x);
  const int64_t rows = shape[shape.size() - 2];
  const Sizes rows_shape(shape.begin(), shape.end() - 1);
  const ScalarType type = p.x.scalar_type();
  const Tensor points = as_dense(query, type);
  const OptionalTensor g = p.dense("grad_phi", grad_phi, shape, "the shape of query", type);
  const OptionalTensor h =
      p.dense("grad_divergence", grad_divergence, rows_shape, "the shape of query's points", p.compute);
  if (p.empty() || rows == 0) {
    return {zeros(query, p), zeros(x, p), zeros(x, p), zeros_if(needs_bandwidth, bandwidth)};
  }
  const Tensor grad_query = new_empty(p.x, shape, type), grad_x = p.stored_like_x(), grad_score = p.stored_like_x();
  const OptionalTensor log_sigma_rows = row_shares_if(needs_bandwidth, p, rows_shape);
  const OptionalTensor log_sigma_cols = row_shares_if(needs_bandwidth, p, p.rows_shape);
  Tensor grad_bandwidth = not_needed(bandwidth);
  typed(p.compute, [&](auto zero) {
    using T = decltype(zero);
    const Numbers<T> sigma(p.op, "bandwidth", bandwidth, x, p.lead, true);
    FieldGradArgs<T> as_query{};
    as_query.shape = {p.batch, rows, p.count, p.dim};
    as_query.particles = p.count;
    as_query.bandwidth = sigma.view();
    FieldGradArgs<T> as_particle = as_query;
    as_query.row_x = data<T>(points);
    as_query.row_grad_phi = data<T>(g);
    as_query.row_grad_trace = data<T>(h);
    as_query.col_x = data<T>(p.x);
    as_query.col_score = data<T>(p.score);
    as_query.grad_x = out<T>(grad_query);
    as_query.grad_log_sigma = out<RowShare<T>>(log_sigma_rows);
    backward(p, as_query);
    as_particle.shape = {p.batch, p.count, rows, p.dim};
    as_particle.row_x = data<T>(p.x);
    as_particle.row_score = data<T>(p.score);
    as_particle.col_x = data<T>(points);
    as_particle.col_grad_phi = data<T>(g);
    as_particle.col_grad_trace = data<T>(h);
    as_particle.grad_x = out<T>(grad_x);
    as_particle.grad_score = out<T>(grad_score);
    as_particle.grad_log_sigma = out<RowShare<T>>(log_sigma_cols);
    backward(p, as_particle);
    if (!needs_bandwidth) return;
    grad_bandwidth = sum_rows<T, RowShare<T>>(p, *log_sigma_rows, bandwidth, sigma.view(), log_sigma_cols);
  });
  return {p.result(grad_query), p.result(grad_x), p.result(grad_score), grad_bandwidth};
}

SVGDX_OPS(m) {
  m.op("svgd_phi(Tensor x, Tensor score, Tensor bandwidth) -> Tensor", TORCH_BOX(&svgd_phi));
  m.op("svgd_phi_trace(Tensor x, Tensor score, Tensor bandwidth) -> (Tensor, Tensor)", TORCH_BOX(&svgd_phi_trace));
  m.op(
      "svgd_phi_trace_backward(Tensor? grad_phi, Tensor? grad_trace, Tensor x, Tensor score, Tensor bandwidth, bool "
      "needs_bandwidth=True) -> (Tensor, Tensor, Tensor)",
      TORCH_BOX(&svgd_phi_trace_backward));
  m.op(
      "svgd_step(Tensor x, Tensor score, Tensor bandwidth, Tensor step_size, Tensor log_q, Tensor? hessian_trace=None) "
      "-> (Tensor, Tensor)",
      TORCH_BOX(&svgd_step));
  m.op(
      "svgd_step_backward(Tensor? grad_x_next, Tensor? grad_log_q_next, Tensor x, Tensor score, Tensor bandwidth, "
      "Tensor step_size, Tensor? hessian_trace, bool needs_bandwidth=True, bool needs_step_size=True) -> (Tensor, "
      "Tensor, Tensor, Tensor)",
      TORCH_BOX(&svgd_step_backward));
  m.op("svgd_field(Tensor query, Tensor x, Tensor score, Tensor bandwidth) -> (Tensor, Tensor)",
       TORCH_BOX(&svgd_field));
  m.op(
      "svgd_field_backward(Tensor? grad_phi, Tensor? grad_divergence, Tensor query, Tensor x, Tensor score, Tensor "
      "bandwidth, bool needs_bandwidth=True) -> (Tensor, Tensor, Tensor, Tensor)",
      TORCH_BOX(&svgd_field_backward));
}

}  // namespace svgdx::SVGDX_BACKEND
