// The Gram route on the CPU. The forward pass is that of gram::GramForward, fused into three passes around the matrix
// products.
#pragma once

#include "common/beta.h"
#include "jacobian/cpu/gram_kernel.h"
#include "jacobian/gram.h"
#include "jacobian/gram_batches.h"

namespace svgdx::cpu {

// The most numbers of a batch of (M, M) matrices.
constexpr int64_t kGramNumbers = int64_t(1) << 20;

template <class T>
gram::Rows gram_rows_of(const Tensor& like, const JacobianArgs<T>& in, const Tensor& beta) {
  const Sizes sizes{in.batch, in.particles, in.dim};
  const auto float64 = [&](const Sizes& shape) { return new_empty(like, shape, ScalarType::Double); };
  gram::Rows rows;
  rows.x = float64(sizes), rows.c = float64(sizes);
  GramRows<T> args{in.batch,
                   in.particles,
                   in.dim,
                   in.x,
                   in.score,
                   in.probe,
                   in.hvp,
                   data<double>(beta),
                   out<double>(rows.x),
                   out<double>(rows.c),
                   nullptr,
                   nullptr,
                   nullptr};
  Tensor dots = float64({in.batch, args.blocks(), in.probe ? in.particles : 0, kGramDots});
  if (in.probe) {
    rows.probe = float64(sizes), rows.hvp = float64(sizes);
    args.probe_out = out<double>(*rows.probe);
    args.hvp_out = out<double>(*rows.hvp);
    args.dots = out<double>(dots);
  }
  torch::stable::parallel_for(0, args.batch * args.blocks(), 1 + (int64_t(1) << 7) / (1 + args.particles),
                              [&](int64_t begin, int64_t end) { SVGDX_ISA_CALL(gram_rows, args, begin, end); });
  if (!in.probe) return rows;
  dots = torch::stable::sum(dots, torch::headeronly::IntHeaderOnlyArrayRef({1}), false);
  rows.dots = dots;
  return rows;
}

// beta of each batch row, float64 (c, 1, 1).
template <class T>
Tensor gram_beta(const Tensor& like, const JacobianArgs<T>& args) {
  const Tensor beta = new_empty(like, {args.batch, 1, 1}, ScalarType::Double);
  for (int64_t b = 0; b < args.batch; ++b) {
    out<double>(beta)[b] = beta_of_sigma(double(args.bandwidth[b]), kLargestSquarableBeta);
  }
  return beta;
}

// |J_i|_F^2, (c, M, 1).
inline Tensor gram_sqnorm(const gram::Rows& rows, const Tensor& beta) {
  const int64_t batch = rows.x.size(0), particles = rows.x.size(1);
  const auto float64 = [&](const Sizes& shape) { return new_empty(rows.x, shape, ScalarType::Double); };
  const Tensor g = product_with_transposed(rows.x, rows.x, true), f = product_with_transposed(rows.c, rows.c, true);
  const Tensor u = product_with_transposed(rows.x, rows.c);
  OptionalTensor hc, vx;
  if (rows.probe) {
    hc = product_with_transposed(*rows.hvp, rows.c);
    vx = product_with_transposed(*rows.probe, rows.x);
  }
  const Tensor kernel = float64({batch, particles, particles}), fg = float64({batch, particles, particles});
  const Tensor sums = float64({batch, particles, kGramSums}), result = float64({batch, particles, 1});
  GramPairs args{batch,
                 particles,
                 rows.x.size(2),
                 data<double>(beta),
                 data<double>(g),
                 data<double>(f),
                 data<double>(u),
                 data<double>(hc),
                 data<double>(vx),
                 data<double>(rows.dots),
                 out<double>(kernel),
                 out<double>(fg),
                 out<double>(sums),
                 nullptr,
                 nullptr,
                 nullptr,
                 out<double>(result)};
  const int64_t items = batch * particles, grain = 1 + (int64_t(1) << 12) / particles;
  torch::stable::parallel_for(0, items, grain,
                              [&](int64_t begin, int64_t end) { SVGDX_ISA_CALL(gram_kernel, args, begin, end); });
  const Tensor kf = product(kernel, f), kg = product(kernel, g), ke = product(kernel, fg);
  args.kf = data<double>(kf), args.kg = data<double>(kg), args.ke = data<double>(ke);
  torch::stable::parallel_for(0, items, grain,
                              [&](int64_t begin, int64_t end) { SVGDX_ISA_CALL(gram_finish, args, begin, end); });
  return result;
}

// A view of contiguous numbers.
template <class T>
Tensor view_of(const T* numbers, const Sizes& sizes) {
  Sizes strides(sizes.size(), 1);
  for (size_t i = sizes.size() - 1; i-- > 0;) strides[i] = strides[i + 1] * sizes[i + 1];
  return torch::stable::from_blob(const_cast<T*>(numbers), sizes, strides,
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU),
                                  sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float);
}

template <class T>
void write(T* to, const Tensor& values) {
  Tensor target = view_of(to, sizes_of(values));
  torch::stable::copy_(target, values);
}

template <class T>
void gram_forward(const Particles& p, const JacobianArgs<T>& all) {
  for_gram_batches(p, kGramNumbers, [&](int64_t first, int64_t count) {
    const JacobianArgs<T> args = batch_rows(all, first, count);
    const Tensor beta = gram_beta(p.x, args);
    write(args.out, gram_sqnorm(gram_rows_of(p.x, args, beta), beta));
  });
}

// euler: (batch, M).
template <class T>
void gram_backward(const Particles& p, const JacobianGradArgs<T>& all, double* euler) {
  for_gram_batches(p, kGramNumbers, [&](int64_t first, int64_t count) {
    const JacobianGradArgs<T> args = batch_rows(all, first, count);
    const Tensor beta = gram_beta(p.x, args.forward);
    const gram::GramForward forward(gram_rows_of(p.x, args.forward, beta), beta);
    const Tensor weight = as_type(view_of(args.grad_out, {count, p.count, 1}), ScalarType::Double);
    const gram::Gradients gradients = gram::backward(forward, weight);
    write(args.grad_x, gradients.x);
    write(args.grad_score, gradients.score);
    write(euler + first * p.count, gradients.euler);
    if (!args.forward.probe) return;
    write(args.grad_probe, *gradients.probe);
    write(args.grad_hvp, *gradients.hvp);
  });
}

}  // namespace svgdx::cpu
