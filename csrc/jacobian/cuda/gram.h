// The Gram route's forward pass on CUDA: four kernels around two batched products of torch's.
#pragma once

#include "common/limits.h"
#include "jacobian/cuda/gram_pairs.h"
#include "jacobian/gram_batches.h"

namespace svgdx::cuda {

// The most numbers of a batch of (M, M) matrices in the backward pass.
inline int64_t gram_numbers() { return kGramElements; }

// For the backward pass, with torch's own ops.
inline gram::Rows rows_of(const GramBatches& gram, int64_t begin, int64_t n, const OptionalTensor& probe,
                          const OptionalTensor& hvp) {
  const Particles& p = gram.p;
  return gram::Rows(gram.part(p.x, begin, n, p.dim), gram.part(p.score, begin, n, p.dim), gram.beta_of(begin, n),
                    gram.part(probe, begin, n), gram.part(hvp, begin, n));
}

// |J_i|_F^2 of `in.batch` batch rows, written to `result` (batch, M).
template <class T>
void gram_sqnorm(const Tensor& like, GramInputs<T> in, T* result, void* stream) {
  const int64_t n = in.batch, m = in.particles;
  const int kinds = in.probe ? 4 : 2;
  const auto float64 = [&](const Sizes& sizes) { return new_empty(like, sizes, ScalarType::Double); };
  Tensor rows = float64({n, kinds * m, in.dim});
  in.rows = out<double>(rows);
  gram_rows<T>(in, stream);
  const Tensor products = float64({n, kinds * m, 2 * m});
  Tensor positions = torch::stable::narrow(rows, 1, 0, 2 * m);
  aten("bmm", "out", rows, torch::stable::transpose(positions, 1, 2), products);
  const Tensor squares = float64({n, m}), crosses = float64({n, m}), dots = float64({n, m, kGramDots});
  const Tensor kernel = float64({n, m, m}), factors = float64({n, m, 3 * m}), sums = float64({n, m, kGramSums});
  const Tensor mixed = float64({n, m, 3 * m});
  const GramPairs<T> pairs{n,
                           m,
                           in.dim,
                           kinds,
                           in.bandwidth,
                           data<double>(rows),
                           data<double>(products),
                           out<double>(squares),
                           out<double>(crosses),
                           in.probe ? out<double>(dots) : nullptr,
                           out<double>(kernel),
                           out<double>(factors),
                           out<double>(sums),
                           data<double>(mixed),
                           result};
  gram_dots<T>(pairs, stream);
  gram_kernel<T>(pairs, stream);
  aten("bmm", "out", kernel, factors, mixed);
  gram_finish<T>(pairs, stream);
}

template <class T>
Tensor gram_forward(const Particles& p, const Tensor&, PerBatch<T> sigma, const OptionalTensor& probe,
                    const OptionalTensor& hvp) {
  const Tensor result = p.per_row();
  const int64_t step = std::max<int64_t>(1, kGramElements / (p.count * p.count)), row = p.count * p.dim;
  const auto from = [](const T* all, int64_t offset) { return all ? all + offset : nullptr; };
  for (int64_t begin = 0; begin < p.batch; begin += step) {
    const GramInputs<T> inputs{std::min(step, p.batch - begin),
                               p.count,
                               p.dim,
                               data<T>(p.x) + begin * row,
                               data<T>(p.score) + begin * row,
                               from(data<T>(probe), begin * row),
                               from(data<T>(hvp), begin * row),
                               sigma.from(begin),
                               nullptr};
    gram_sqnorm<T>(p.x, inputs, out<T>(result) + begin * p.count, stream(p.x));
  }
  return result;
}

}  // namespace svgdx::cuda
