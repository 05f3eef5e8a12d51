// Host layer of svgd_jacobian_sqnorm and svgd_logdet, compiled once for each backend.
#include "common/particles.h"
#include "common/registration.h"
#include "jacobian/args.h"
#include SVGDX_BACKEND_HEADER(jacobian, gram.h)

namespace svgdx::SVGDX_BACKEND {

// Largest D for which A_i, D x D per particle, is formed; above it |J|^2 is computed from Gram matrices.
constexpr int64_t kJacobianDim = 16;
static void check_probe(const Particles& p, const OptionalTensor& probe, const OptionalTensor& hvp) {
  SVGDX_CHECK(probe.has_value() == hvp.has_value(), p.op, probe ? "hvp" : "probe",
              " must be given as well: probe and hvp go together");
}

template <class T>
static JacobianArgs<T> jacobian_args(const Particles& p, const Numbers<T>& sigma) {
  JacobianArgs<T> args{};
  args.batch = p.batch;
  args.particles = p.count;
  args.dim = p.dim;
  args.x = data<T>(p.x);
  args.score = data<T>(p.score);
  args.bandwidth = sigma.view();
  return args;
}

using Five = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

template <class T>
static Tensor run_backward(const Particles& p, JacobianGradArgs<T>& args, const Tensor& w, const Tensor& bandwidth,
                           const Numbers<T>& sigma, const Tensor& grad_x, const Tensor& grad_score,
                           bool needs_bandwidth) {
  args.grad_out = data<T>(w);
  args.grad_x = out<T>(grad_x);
  args.grad_score = out<T>(grad_score);
  if (p.dim > kJacobianDim) {
    const Tensor euler = new_empty(p.x, p.rows_shape, ScalarType::Double);
    gram_backward<T>(p, args, out<double>(euler));
    return needs_bandwidth ? sum_rows<T, double>(p, euler, bandwidth, sigma.view()) : not_needed(bandwidth);
  }
  const Tensor adjoint = new_empty(p.x, {p.batch, p.count, p.dim, p.dim}, p.compute), euler = p.per_row();
  args.adjoint = out<T>(adjoint);
  args.euler = out<T>(euler);
  jacobian_backward<T>(args, stream(p.x));
  return needs_bandwidth ? sum_rows<T>(p, euler, bandwidth, sigma.view()) : not_needed(bandwidth);
}

static OptionalTensor check_hessian(const Particles& p, const OptionalTensor& hessian) {
  SVGDX_CHECK(p.dim <= kJacobianDim, p.op, "x must have at most ", kJacobianDim,
              " dimensions for the exact log-determinant, but has ", p.dim);
  if (hessian) check_same_dtype(p.op, "hessian", *hessian, p.input);
  return p.dense("hessian", hessian, with(p.shape, {p.dim}), "shape (..., M, D, D)", p.compute);
}

static Tensor svgd_logdet(const Tensor& x, const Tensor& score, const Tensor& bandwidth, const Tensor& step_size,
                          const OptionalTensor& hessian_in) {
  const Guard guard(x);
  const Particles p("svgd_logdet", x, score);
  const OptionalTensor hessian = check_hessian(p, hessian_in);
  const Tensor result = p.dim ? p.per_row() : new_zeros(p.x, p.rows_shape, p.compute);
  typed(p.compute, [&](auto zero) {
    using T = decltype(zero);
    const Numbers<T> sigma(p.op, "bandwidth", bandwidth, x, p.lead, true);
    const Numbers<T> eps(p.op, "step_size", step_size, x, p.lead, false);
    if (p.empty()) return;
    JacobianArgs<T> args = jacobian_args<T>(p, sigma);
    args.step = eps.view();
    args.hessian = data<T>(hessian);
    args.out = out<T>(result);
    jacobian_forward<T>(args, stream(p.x));
  });
  return p.result(result);
}

static Five svgd_logdet_backward(const Tensor& grad, const Tensor& x, const Tensor& score, const Tensor& bandwidth,
                                 const Tensor& step_size, const OptionalTensor& hessian_in, bool needs_bandwidth,
                                 bool needs_step_size) {
  const Guard guard(x);
  const Particles p("svgd_logdet_backward", x, score);
  const OptionalTensor hessian = check_hessian(p, hessian_in);
  const Tensor w = *p.per_row("grad", OptionalTensor(grad));
  const Tensor grad_hessian = new_zeros(p.x, hessian ? with(p.shape, {p.dim}) : Sizes{0}, p.compute);
  if (p.empty()) {
    return {zeros(x, p), zeros(x, p), zeros_if(needs_bandwidth, bandwidth), zeros_if(needs_step_size, step_size),
            p.result(grad_hessian)};
  }
  const Tensor grad_x = p.like_x(), grad_score = p.like_x();
  const OptionalTensor grad_rows = p.per_row_if(needs_step_size);
  Tensor grad_bandwidth, grad_step = not_needed(step_size);
  typed(p.compute, [&](auto zero) {
    using T = decltype(zero);
    const Numbers<T> sigma(p.op, "bandwidth", bandwidth, x, p.lead, true);
    const Numbers<T> eps(p.op, "step_size", step_size, x, p.lead, false);
    JacobianGradArgs<T> args{};
    args.forward = jacobian_args<T>(p, sigma);
    args.forward.step = eps.view();
    args.forward.hessian = data<T>(hessian);
    args.grad_step = out<T>(grad_rows);
    args.grad_hessian = hessian ? out<T>(grad_hessian) : nullptr;
    grad_bandwidth = run_backward(p, args, w, bandwidth, sigma, grad_x, grad_score, needs_bandwidth);
    if (grad_rows) grad_step = sum_rows<T>(p, *grad_rows, step_size, {});
  });
  return {p.result(grad_x), p.result(grad_score), grad_bandwidth, grad_step, p.result(grad_hessian)};
}

static Tensor svgd_jacobian_sqnorm(const Tensor& x, const Tensor& score, const Tensor& bandwidth,
                                   const OptionalTensor& probe_in, const OptionalTensor& hvp_in) {
  const Guard guard(x);
  const Particles p("svgd_jacobian_sqnorm", x, score);
  check_probe(p, probe_in, hvp_in);
  const OptionalTensor probe = p.input_like_x("probe", probe_in), hvp = p.input_like_x("hvp", hvp_in);
  const Tensor result = p.dim ? p.per_row() : new_zeros(p.x, p.rows_shape, p.compute);
  typed(p.compute, [&](auto zero) {
    using T = decltype(zero);
    const Numbers<T> sigma(p.op, "bandwidth", bandwidth, x, p.lead, true);
    if (p.empty()) return;
    JacobianArgs<T> args = jacobian_args<T>(p, sigma);
    args.probe = data<T>(probe);
    args.hvp = data<T>(hvp);
    args.out = out<T>(result);
    if (p.dim > kJacobianDim) return gram_forward<T>(p, args);
    jacobian_forward<T>(args, stream(p.x));
  });
  return p.result(result);
}

static Five svgd_jacobian_sqnorm_backward(const Tensor& grad, const Tensor& x, const Tensor& score,
                                          const Tensor& bandwidth, const OptionalTensor& probe_in,
                                          const OptionalTensor& hvp_in, bool needs_bandwidth) {
  const Guard guard(x);
  const Particles p("svgd_jacobian_sqnorm_backward", x, score);
  check_probe(p, probe_in, hvp_in);
  const OptionalTensor probe = p.input_like_x("probe", probe_in), hvp = p.input_like_x("hvp", hvp_in);
  const Tensor w = *p.per_row("grad", OptionalTensor(grad));
  const Sizes probe_shape = probe ? p.shape : Sizes{0};
  if (p.empty()) {
    const auto none = [&] { return new_zeros(p.x, probe_shape, p.input); };
    return {zeros(x, p), zeros(x, p), zeros_if(needs_bandwidth, bandwidth), none(), none()};
  }
  const Tensor grad_probe = new_empty(p.x, probe_shape, p.compute), grad_hvp = new_empty(p.x, probe_shape, p.compute);
  const Tensor grad_x = p.like_x(), grad_score = p.like_x();
  Tensor grad_bandwidth;
  typed(p.compute, [&](auto zero) {
    using T = decltype(zero);
    const Numbers<T> sigma(p.op, "bandwidth", bandwidth, x, p.lead, true);
    JacobianGradArgs<T> args{};
    args.forward = jacobian_args<T>(p, sigma);
    args.forward.probe = data<T>(probe);
    args.forward.hvp = data<T>(hvp);
    args.grad_probe = probe ? out<T>(grad_probe) : nullptr;
    args.grad_hvp = probe ? out<T>(grad_hvp) : nullptr;
    grad_bandwidth = run_backward(p, args, w, bandwidth, sigma, grad_x, grad_score, needs_bandwidth);
  });
  return {p.result(grad_x), p.result(grad_score), grad_bandwidth, p.result(grad_probe), p.result(grad_hvp)};
}

SVGDX_OPS(m) {
  m.op("svgd_jacobian_sqnorm(Tensor x, Tensor score, Tensor bandwidth, Tensor? probe=None, Tensor? hvp=None) -> Tensor",
       TORCH_BOX(&svgd_jacobian_sqnorm));
  m.op(
      "svgd_jacobian_sqnorm_backward(Tensor grad, Tensor x, Tensor score, Tensor bandwidth, Tensor? probe, Tensor? "
      "hvp, bool needs_bandwidth=True) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
      TORCH_BOX(&svgd_jacobian_sqnorm_backward));
  m.op("svgd_logdet(Tensor x, Tensor score, Tensor bandwidth, Tensor step_size, Tensor? hessian=None) -> Tensor",
       TORCH_BOX(&svgd_logdet));
  m.op(
      "svgd_logdet_backward(Tensor grad, Tensor x, Tensor score, Tensor bandwidth, Tensor step_size, Tensor? "
      "hessian, bool needs_bandwidth=True, bool needs_step_size=True) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
      TORCH_BOX(&svgd_logdet_backward));
}

}  // namespace svgdx::SVGDX_BACKEND
