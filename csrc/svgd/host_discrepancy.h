// Host layer of ksd and median_distance. See svgd/host.h.
#pragma once

#include "svgd/host.h"

namespace svgdx {

template <class Backend>
struct DiscrepancyOps : SvgdOps<Backend> {
  using Base = SvgdOps<Backend>;

  // The U-statistic divides the Stein summands by M (M - 1), the V-statistic by M^2; phi and t already include 1/M.
  static double divisor(const Particles& p, bool unbiased) { return double(p.count - (unbiased ? 1 : 0)); }

  static void check_count(const Particles& p, bool unbiased) {
    SVGDX_CHECK(!unbiased || p.count != 1, p.op, "x must have at least 2 particles for the U-statistic, but has 1");
  }

  static Tensor ksd(const Tensor& x, const Tensor& score, const Tensor& bandwidth, bool unbiased) {
    const typename Backend::Guard guard(x);
    const Particles p("ksd", x, score);
    check_count(p, unbiased);
    const Tensor result = new_zeros(p.x, p.lead, p.compute), summand = p.per_row();
    Base::typed(p.compute, [&](auto zero) {
      using T = decltype(zero);
      const Numbers<T> sigma(p.op, "bandwidth", bandwidth, x, p.lead, true);
      if (p.empty()) return;
      FieldArgs<T> args{p.field(), data<T>(p.x), data<T>(p.x), data<T>(p.score), sigma.view(), true};
      args.stein = out<T>(summand);
      args.stein_diagonal = !unbiased;
      Base::forward(p, args);
      Backend::template row_sum<T>(p.batch, p.count, data<T>(summand), T(1.0 / divisor(p, unbiased)), {},
                                   out<T>(result), Backend::stream(p.x));
    });
    return p.result(result);
  }

  // L = c sum_i [ s_i . phi_i + t_i - (U: s_i . s_i / M) + (V: beta D / M) ], c = grad / divisor: the backward pass of
  // phi and t with upstream gradients c s_i and c, plus c (phi_i - U: 2 s_i / M) in the score's gradient.
  static std::tuple<Tensor, Tensor, Tensor> ksd_backward(const Tensor& grad, const Tensor& x, const Tensor& score,
                                                         const Tensor& bandwidth, bool unbiased) {
    const typename Backend::Guard guard(x);
    const Particles p("ksd_backward", x, score);
    check_count(p, unbiased);
    check_shape(p.op, "grad", grad, p.lead, "the leading shape of x");
    if (p.empty()) return Base::particle_backward(p, std::nullopt, std::nullopt, bandwidth);
    const auto number = [&](double v) { return torch::stable::full({}, v, p.compute, std::nullopt, p.x.device()); };
    const Tensor per_batch = mul(as_type(grad, p.compute), number(1.0 / divisor(p, unbiased)));
    const Tensor c = torch::stable::reshape(per_batch, with(p.lead, {1, 1}));
    const Tensor phi = p.like_x(), ones = torch::stable::full(p.rows_shape, 1.0, p.compute, std::nullopt, p.x.device());
    const Tensor g = as_dense(mul(p.score, c), p.compute);
    const Tensor h = as_dense(mul(ones, torch::stable::reshape(per_batch, with(p.lead, {1}))), p.compute);
    std::tuple<Tensor, Tensor, Tensor> result;
    Base::typed(p.compute, [&](auto zero) {
      using T = decltype(zero);
      const Numbers<T> sigma(p.op, "bandwidth", bandwidth, x, p.lead, true);
      Base::forward(
          p, FieldArgs<T>{p.field(), data<T>(p.x), data<T>(p.x), data<T>(p.score), sigma.view(), true, out<T>(phi)});
      const Tensor grad_x = p.like_x(), grad_score = p.like_x(), euler = p.per_row();
      FieldGradArgs<T> args = Base::template self_args<T>(p, g, h, sigma);
      args.grad_x = out<T>(grad_x);
      args.grad_score = out<T>(grad_score);
      args.euler = out<T>(euler);
      Base::backward(p, args);
      const double diagonal = unbiased ? 2.0 / double(p.count) : 0.0;
      const Tensor own = mul(torch::stable::subtract(phi, p.score, diagonal), c);
      const Tensor grad_bandwidth = bandwidth_gradient<T>(p, euler, per_batch, bandwidth, sigma, unbiased);
      result = {p.result(grad_x), p.result(torch::stable::subtract(grad_score, own, -1.0)), grad_bandwidth};
    });
    return result;
  }

  // Euler's identity gives the same sum as for phi and t; the V-statistic's c beta D contributes another -2 c beta D.
  template <class T>
  static Tensor bandwidth_gradient(const Particles& p, const Tensor& euler, const Tensor& c, const Tensor& bandwidth,
                                   const Numbers<T>& sigma, bool unbiased) {
    const Tensor per_batch = new_empty(p.x, p.lead, p.compute);
    Backend::template row_sum<T>(p.batch, p.count, data<T>(euler), T(1), {}, out<T>(per_batch), Backend::stream(p.x));
    Tensor total = per_batch;
    if (!unbiased) {
      Tensor diagonal = c;
      for (int i = 0; i < 2; ++i) diagonal = divided(p, diagonal, sigma);
      total = torch::stable::subtract(total, diagonal, 2.0 * double(p.dim));
    }
    return Base::template in_shape_of<T>(p, divided(p, total, sigma), bandwidth);
  }

  template <class T>
  static Tensor divided(const Particles& p, const Tensor& per_batch, const Numbers<T>& sigma) {
    const Tensor quotient = new_empty(p.x, p.lead, p.compute), dense = as_dense(per_batch, p.compute);
    Backend::template row_sum<T>(p.batch, 1, data<T>(dense), T(1), sigma.view(), out<T>(quotient),
                                 Backend::stream(p.x));
    return quotient;
  }

  static Tensor median_distance(const Tensor& x) {
    const typename Backend::Guard guard(x);
    const Particles p("median_distance", x, x);
    SVGDX_CHECK(p.batch == 0 || p.count > 0, p.op, "x must have at least 1 particle, but has shape ", text(p.shape));
    const Tensor result = new_zeros(p.x, p.lead, p.compute);
    if (p.empty()) return p.result(result);
    Base::typed(p.compute, [&](auto zero) {
      using T = decltype(zero);
      const Tensor scratch = Backend::scratch(p.x, Backend::median_distance_scratch(p.batch, p.count, p.dim));
      Backend::template median_distance<T>(p.batch, p.count, p.dim, data<T>(p.x), out<T>(result),
                                           scratch.mutable_data_ptr(), Backend::stream(p.x));
    });
    return p.result(result);
  }
};

}  // namespace svgdx
