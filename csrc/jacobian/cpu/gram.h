// The Gram route's forward pass on the CPU: the same as gram::Rows and gram::GramForward, fused into three passes
// around the matrix products.
#pragma once

#include "jacobian/cpu/gram_kernel.h"
#include "jacobian/gram_batches.h"

namespace svgdx::cpu {

// The most numbers of a batch of (M, M) matrices.
constexpr int64_t gram_numbers() { return int64_t(1) << 20; }

template <class T>
gram::Rows gram_rows_of(const Tensor& x, const Tensor& score, const Tensor& beta, const OptionalTensor& probe,
                        const OptionalTensor& hvp) {
  const Sizes sizes = sizes_of(x);
  const auto float64 = [&](const Sizes& shape) { return new_empty(x, shape, ScalarType::Double); };
  gram::Rows rows;
  rows.x = float64(sizes), rows.c = float64(sizes);
  GramRows<T> args{sizes[0],
                   sizes[1],
                   sizes[2],
                   data<T>(x),
                   data<T>(score),
                   data<T>(probe),
                   data<T>(hvp),
                   data<double>(beta),
                   out<double>(rows.x),
                   out<double>(rows.c),
                   nullptr,
                   nullptr,
                   nullptr};
  Tensor dots = float64({sizes[0], args.blocks(), probe ? sizes[1] : 0, kGramDots});
  if (probe) {
    rows.probe = float64(sizes), rows.hvp = float64(sizes);
    args.probe_out = out<double>(*rows.probe);
    args.hvp_out = out<double>(*rows.hvp);
    args.dots = out<double>(dots);
  }
  torch::stable::parallel_for(0, args.batch * args.blocks(), 1 + (int64_t(1) << 7) / (1 + args.particles),
                              [&](int64_t begin, int64_t end) { SVGDX_ISA_CALL(gram_rows, args, begin, end); });
  if (!probe) return rows;
  dots = torch::stable::sum(dots, torch::headeronly::IntHeaderOnlyArrayRef({1}), false);
  rows.dots = dots;
  return rows;
}

// Contiguous float32 or float64 x, score, probe and hvp (c, M, D); beta float64 (c, 1, 1).
inline gram::Rows gram_rows(const Tensor& x, const Tensor& score, const Tensor& beta, const OptionalTensor& probe,
                            const OptionalTensor& hvp) {
  const bool wide = x.scalar_type() == ScalarType::Double;
  return wide ? gram_rows_of<double>(x, score, beta, probe, hvp) : gram_rows_of<float>(x, score, beta, probe, hvp);
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

inline gram::Rows rows_of(const GramBatches& gram, int64_t begin, int64_t n, const OptionalTensor& probe,
                          const OptionalTensor& hvp) {
  const Particles& p = gram.p;
  return gram_rows(gram.part(p.x, begin, n, p.dim), gram.part(p.score, begin, n, p.dim), gram.beta_of(begin, n),
                   gram.part(probe, begin, n), gram.part(hvp, begin, n));
}

template <class T>
Tensor gram_forward(const Particles& p, const Tensor& bandwidth, PerBatch<T>, const OptionalTensor& probe,
                    const OptionalTensor& hvp) {
  const GramBatches gram(p, bandwidth);
  const Tensor result = p.per_row();
  for (int64_t begin = 0; begin < p.batch; begin += gram.step(gram_numbers())) {
    const int64_t n = std::min(gram.step(gram_numbers()), p.batch - begin);
    gram.write(result, begin, n, 1, gram_sqnorm(rows_of(gram, begin, n, probe, hvp), gram.beta_of(begin, n)));
  }
  return result;
}

}  // namespace svgdx::cpu
