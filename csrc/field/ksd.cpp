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
  const Particles p("ksd", x, score);
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

template <class T>
static Tensor divided(const Particles& p, const Tensor& per_batch, const Numbers<T>& sigma) {
  const Tensor quotient = new_empty(p.x, p.lead, p.compute), dense = as_dense(per_batch, p.compute);
  row_sum<T, T>(p.batch, {data<T>(dense), 1}, {}, T(1), sigma.view(), out<T>(quotient), stream(p.x));
  return quotient;
}

// The sum is the same as for phi and t; the V-statistic's c beta D contributes another -2 c beta D.
template <class T>
static Tensor bandwidth_gradient(const Particles& p, const Tensor& log_sigma, const Tensor& c, const Tensor& bandwidth,
                                 const Numbers<T>& sigma, bool unbiased) {
  const Tensor per_batch = new_empty(p.x, p.lead, p.compute);
  row_sum<T, RowShare<T>>(p.batch, {data<RowShare<T>>(log_sigma), p.count}, {}, T(1), {}, out<T>(per_batch),
                          stream(p.x));
  Tensor total = per_batch;
  if (!unbiased) {
    Tensor diagonal = c;
    for (int i = 0; i < 2; ++i) diagonal = divided(p, diagonal, sigma);
    total = torch::stable::subtract(total, diagonal, 2.0 * double(p.dim));
  }
  return in_shape_of<T>(p, divided(p, total, sigma), bandwidth);
}

// L = c sum_i [ s_i . phi_i + t_i - (U: s_i . s_i / M) + (V: beta D / M) ], c = grad / divisor: the backward pass of
// phi and t with upstream gradients c s_i and c, plus c (phi_i - U: 2 s_i / M) in the score's gradient.
static std::tuple<Tensor, Tensor, Tensor> ksd_backward(const Tensor& grad, const Tensor& x, const Tensor& score,
                                                       const Tensor& bandwidth, bool unbiased) {
  const Guard guard(x);
  const Particles p("ksd_backward", x, score);
  check_count(p, unbiased);
  check_shape(p.op, "grad", grad, p.lead, "the leading shape of x");
  if (p.empty()) return particle_backward(p, std::nullopt, std::nullopt, bandwidth);
  const auto number = [&](double v) { return torch::stable::full({}, v, p.compute, std::nullopt, p.x.device()); };
  const Tensor per_batch = mul(as_type(grad, p.compute), number(1.0 / divisor(p, unbiased)));
  const Tensor c = torch::stable::reshape(per_batch, with(p.lead, {1, 1}));
  const Tensor phi = p.like_x(), ones = torch::stable::full(p.rows_shape, 1.0, p.compute, std::nullopt, p.x.device());
  const Tensor g = as_dense(mul(p.score, c), p.compute);
  const Tensor h = as_dense(mul(ones, torch::stable::reshape(per_batch, with(p.lead, {1}))), p.compute);
  std::tuple<Tensor, Tensor, Tensor> result;
  typed(p.compute, [&](auto zero) {
    using T = decltype(zero);
    const Numbers<T> sigma(p.op, "bandwidth", bandwidth, x, p.lead, true);
    forward(
        p, FieldArgs<T>{field_shape(p), data<T>(p.x), data<T>(p.x), data<T>(p.score), sigma.view(), true, out<T>(phi)});
    const Tensor grad_x = p.like_x(), grad_score = p.like_x(), log_sigma = row_shares(p, p.rows_shape);
    FieldGradArgs<T> args = self_args<T>(p, g, h, sigma);
    args.grad_x = out<T>(grad_x);
    args.grad_score = out<T>(grad_score);
    args.grad_log_sigma = out<RowShare<T>>(log_sigma);
    backward(p, args);
    const double diagonal = unbiased ? 2.0 / double(p.count) : 0.0;
    const Tensor own = mul(torch::stable::subtract(phi, p.score, diagonal), c);
    const Tensor grad_bandwidth = bandwidth_gradient<T>(p, log_sigma, per_batch, bandwidth, sigma, unbiased);
    result = {p.result(grad_x), p.result(torch::stable::subtract(grad_score, own, -1.0)), grad_bandwidth};
  });
  return result;
}

SVGDX_OPS(m) {
  m.op("ksd(Tensor x, Tensor score, Tensor bandwidth, bool unbiased=True) -> Tensor", TORCH_BOX(&ksd));
  m.op("ksd_backward(Tensor grad, Tensor x, Tensor score, Tensor bandwidth, bool unbiased) -> (Tensor, Tensor, Tensor)",
       TORCH_BOX(&ksd_backward));
}

}  // namespace svgdx::SVGDX_BACKEND
