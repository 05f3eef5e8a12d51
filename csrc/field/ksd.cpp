// Host layer of ksd, compiled once for each backend.
#include "common/registration.h"
#include "field/host.h"

namespace svgdx::SVGDX_BACKEND {

// The U-statistic divides the Stein summands by M (M - 1), the V-statistic by M^2; phi and t already include 1/M.
static double divisor(const Particles& p, bool unbiased) { return double(p.count - (unbiased ? 1 : 0)); }

static void check_count(const Particles& p, bool unbiased) {
  SVGDX_CHECK(!unbiased || p.count != 1, p.op, "x must have at least 2 particles for the U-statistic, but has 1");
}

static Tensor ksd(const Tensor& x, const Tensor& score, const Tensor& bandwidth, bool unbiased) {
  const Guard guard(x);
  const Particles p("ksd", x, score, kReadsStored);
  check_count(p, unbiased);
  const Tensor result = new_zeros(p.x, p.lead, p.compute), summand = p.per_row();
  typed(p.compute, [&](auto zero) {
    using T = decltype(zero);
    const Numbers<T> sigma(p.op, "bandwidth", bandwidth, x, p.lead, true);
    if (p.empty()) return;
    FieldArgs<T> args{field_shape(p), data<T>(p.x), data<T>(p.x), data<T>(p.score), sigma.view(), true};
    args.stein = out<T>(summand);
    args.stein_diagonal = !unbiased;
    forward(p, args);
    row_sum<T, T>(p.batch, {data<T>(summand), p.count}, {}, T(1.0 / divisor(p, unbiased)), {}, out<T>(result),
                  stream(p.x));
  });
  return p.result(result);
}

// sigma * dL/dsigma is the same sum as for phi and t; the V-statistic's c beta D contributes another -2 c beta D.
template <class T>
static Tensor bandwidth_gradient(const Particles& p, const Tensor& log_sigma, const Tensor& c, const Tensor& bandwidth,
                                 const Numbers<T>& sigma, bool unbiased) {
  if (unbiased) return sum_rows<T, RowShare<T>>(p, log_sigma, bandwidth, sigma.view());
  const auto per_batch = [&](const Tensor& rows, auto share, T scale, PerBatch<T> divisor) {
    using In = decltype(share);
    const Tensor sum = new_empty(p.x, p.lead, p.compute);
    row_sum<T, In>(p.batch, {data<In>(rows), rows.numel() / p.batch}, {}, scale, divisor, out<T>(sum), stream(p.x));
    return sum;
  };
  Tensor diagonal = per_batch(c, T(), T(-2) * T(p.dim), sigma.view());
  diagonal = per_batch(diagonal, T(), T(1), sigma.view());
  const Tensor sum = per_batch(log_sigma, RowShare<T>(), T(1), {});
  const Tensor total = torch::stable::subtract(sum, diagonal, -1.0);
  return in_shape_of<T>(p, per_batch(total, T(), T(1), sigma.view()), bandwidth);
}

// L = c sum_i [ s_i . phi_i + t_i - (U: s_i . s_i / M) + (V: beta D / M) ], c = grad / divisor: the backward pass of
// phi and t with upstream gradients c s_i and c. The gradient in the score that it returns is c phi_i, because kappa is
// symmetric; as much comes from s_i as a factor, less 2 c s_i / M for U.
static std::tuple<Tensor, Tensor, Tensor> ksd_backward(const Tensor& grad, const Tensor& x, const Tensor& score,
                                                       const Tensor& bandwidth, bool unbiased, bool needs_bandwidth) {
  const Guard guard(x);
  const Particles p("ksd_backward", x, score);
  check_count(p, unbiased);
  check_shape(p.op, "grad", grad, p.lead, "the leading shape of x");
  if (p.empty()) return particle_backward(p, std::nullopt, std::nullopt, bandwidth, needs_bandwidth);
  const Tensor upstream = as_dense(grad, p.compute), c = new_empty(p.x, p.lead, p.compute);
  Tensor h = p.per_row();
  const Tensor grad_x = p.like_x(), grad_score = p.like_x();
  const OptionalTensor log_sigma = row_shares_if(needs_bandwidth, p, p.rows_shape);
  std::tuple<Tensor, Tensor, Tensor> result;
  typed(p.compute, [&](auto zero) {
    using T = decltype(zero);
    const Numbers<T> sigma(p.op, "bandwidth", bandwidth, x, p.lead, true);
    row_sum<T, T>(p.batch, {data<T>(upstream), 1}, {}, T(1.0 / divisor(p, unbiased)), {}, out<T>(c), stream(p.x));
    torch::stable::copy_(h, torch::stable::reshape(c, with(p.lead, {1})));
    const Tensor g = as_dense(mul(p.score, torch::stable::reshape(c, with(p.lead, {1, 1}))), p.compute);
    FieldGradArgs<T> args = self_args<T>(p, g, h, sigma);
    args.grad_x = out<T>(grad_x);
    args.grad_score = out<T>(grad_score);
    args.grad_log_sigma = out<RowShare<T>>(log_sigma);
    backward(p, args);
    const Tensor own = torch::stable::subtract(grad_score, g, unbiased ? 2.0 / double(p.count) : 0.0);
    const Tensor grad_bandwidth =
        log_sigma ? bandwidth_gradient<T>(p, *log_sigma, c, bandwidth, sigma, unbiased) : not_needed(bandwidth);
    result = {p.result(grad_x), p.result(torch::stable::subtract(grad_score, own, -1.0)), grad_bandwidth};
  });
  return result;
}

SVGDX_OPS(m) {
  m.op("ksd(Tensor x, Tensor score, Tensor bandwidth, bool unbiased=True) -> Tensor", TORCH_BOX(&ksd));
  m.op(
      "ksd_backward(Tensor grad, Tensor x, Tensor score, Tensor bandwidth, bool unbiased, bool "
      "needs_bandwidth=True) -> (Tensor, Tensor, Tensor)",
      TORCH_BOX(&ksd_backward));
}

}  // namespace svgdx::SVGDX_BACKEND
