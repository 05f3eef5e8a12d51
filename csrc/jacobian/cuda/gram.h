// The Gram route on CUDA: kernels around batched products of torch's, a few batch rows at a time.
#pragma once

#include "common/limits.h"
#include "jacobian/cuda/gram_pairs.h"
#include "jacobian/cuda/matrix.h"
#include "jacobian/gram_batches.h"

namespace svgdx::cuda {

// The memory of the passes over a few batch rows: of their inputs and products, and of what follows from these.
template <class T>
struct GramScratch {
  GramPairs<T> pairs;
  Tensor rows, products, squares, crosses, dots, kernel, factors, sums, mixed;

  GramScratch(const Tensor& like, const JacobianArgs<T>& args, const T* weight, void* stream)
      : pairs{args.batch, args.particles, args.dim, args.probe ? 4 : 2, args.bandwidth, weight} {
    const int64_t n = args.batch, m = args.particles, stacked = pairs.kinds * m;
    const auto float64 = [&](const Sizes& sizes) { return new_empty(like, sizes, ScalarType::Double); };
    rows = float64({n, stacked, args.dim}), products = float64({n, stacked, 2 * m});
    gram_rows<T>({n, m, args.dim, args.x, args.score, args.probe, args.hvp, args.bandwidth, out<double>(rows)}, stream);
    const Tensor positions = rows_from(pairs.first() * m, 2 * m);
    aten("bmm", "out", rows, torch::stable::transpose(positions, 1, 2), products);
    squares = float64({n, m}), crosses = float64({n, m}), dots = float64({n, m, kGramDots});
    kernel = float64({n, m, m}), factors = float64({n, m, pairs.blocks() * m}), sums = float64({n, m, kGramSums});
    mixed = float64({n, m, pairs.blocks() * m});
    pairs.rows = data<double>(rows), pairs.products = data<double>(products);
    pairs.squares = out<double>(squares), pairs.crosses = out<double>(crosses);
    pairs.dots = args.probe ? out<double>(dots) : nullptr;
    pairs.kernel = out<double>(kernel), pairs.factors = out<double>(factors), pairs.sums = out<double>(sums);
    pairs.mixed = data<double>(mixed), pairs.out = args.out;
    gram_dots<T>(pairs, stream);
    gram_kernel<T>(pairs, stream);
    aten("bmm", "out", kernel, factors, mixed);
  }

  // Stacked rows, and columns of the factors.
  Tensor rows_from(int64_t begin, int64_t count) const { return slice(rows, 1, begin, count); }
  Tensor factors_from(int64_t begin, int64_t count) const { return slice(factors, 2, begin, count); }

 private:
  static Tensor slice(Tensor all, int64_t dim, int64_t begin, int64_t count) {
    return torch::stable::narrow(all, dim, begin, count);
  }
};

// The gradients of a few batch rows. The adjoint takes the place of the factors, which are used up by then.
template <class T>
void gram_gradient(const Tensor& like, const JacobianGradArgs<T>& args, double* euler, void* stream) {
  const GramScratch<T> scratch(like, args.forward, args.grad_out, stream);
  const int64_t n = args.forward.batch, m = args.forward.particles, d = args.forward.dim;
  const int kinds = scratch.pairs.kinds, first = scratch.pairs.first();
  const auto float64 = [&](const Sizes& sizes) { return new_empty(like, sizes, ScalarType::Double); };
  const auto transposed = [](const Tensor& t) { return torch::stable::transpose(t, 1, 2); };
  const Tensor inner = float64({n, m, m}), own = float64({n, m, kGramOwn});
  // F and G are symmetric.
  aten("bmm", "out", scratch.factors_from(4 * m, 2 * m), transposed(scratch.factors_from(0, 2 * m)), inner);
  Tensor parts = float64({kinds * n, m, d});
  const GramGrads<T> grads{scratch.pairs,
                           data<double>(inner),
                           out<double>(scratch.factors),
                           out<double>(own),
                           data<double>(parts),
                           args.grad_x,
                           args.grad_score,
                           args.grad_probe,
                           args.grad_hvp,
                           euler};
  gram_adjoint<T>(grads, stream);
  const auto multiply = [&](const Tensor& matrix, int64_t begin, int64_t count, int64_t kind) {
    aten("bmm", "out", matrix, scratch.rows_from(begin, count), torch::stable::narrow(parts, 0, kind * n, n));
  };
  const int64_t side = grads.sides() * m;
  multiply(scratch.factors_from(0, side), 0, side, first);
  multiply(scratch.factors_from(side, side), first * m, side, first + 1);
  if (args.forward.probe) {
    multiply(transposed(scratch.factors_from(0, m)), m, m, 0);
    multiply(transposed(scratch.factors_from(2 * side - m, m)), 2 * m, m, 3);
  }
  gram_gradients<T>(grads, stream);
}

template <class T>
void gram_forward(const Particles& p, const JacobianArgs<T>& args) {
  if (forms_matrix(args)) return matrix_forward(args, stream(p.x));
  for_gram_batches(p, kGramElements, [&](int64_t first, int64_t count) {
    const GramScratch<T> scratch(p.x, batch_rows(args, first, count), nullptr, stream(p.x));
    gram_finish<T>(scratch.pairs, stream(p.x));
  });
}

// euler: (batch, M).
template <class T>
void gram_backward(const Particles& p, const JacobianGradArgs<T>& args, double* euler) {
  for_gram_batches(p, kGramElements, [&](int64_t first, int64_t count) {
    gram_gradient<T>(p.x, batch_rows(args, first, count), euler + first * p.count, stream(p.x));
  });
}

}  // namespace svgdx::cuda
