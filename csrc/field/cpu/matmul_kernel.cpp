// Large dimensions: torch computes the two matrix products; the steps between them run here row by row, in blocks of
// (batch rows, rows, columns) kernel values. The algebra is that of pack.h.
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "field/cpu/expanded.h"
#include "field/cpu/kernels.h"
#include "field/cpu/matmul_part.h"
#include "field/cpu/spread.h"

namespace svgdx::SVGDX_ISA {
namespace {

template <class T, class C>
void forward_part(const FieldArgs<T>& a, int64_t first, int64_t batches, const double* centre) {
  const FieldShape& s = a.shape;
  const int64_t dim = s.dim, cols = s.cols;
  Part<T, C> part(s, a.self, false, first, batches, centre);
  part.fill({a.x, a.score, nullptr, nullptr}, {a.query, nullptr, nullptr, nullptr}, a.bandwidth, C(0));
  part.blocks([&](int64_t k, int64_t n, int64_t row, int64_t rows) {
    const Array<C> kernel =
        array_product_with_transposed<C>(part.cut(part.rows().x.tensor, k, n, row, rows, 0, dim),
                                         part.cut(part.cols.x.tensor, k, n, 0, cols, 0, dim), part.square(rows));
    std::vector<KernelSums<C>> sums(n * rows);
    part.each_row(k, n, row, rows, [&](int64_t i, int64_t at, int64_t r, int64_t side) {
      const C scale = beta_of<T, C>(a.bandwidth, first + at) * C(pair::kLog2E);
      C* row_values = kernel.get() + i * cols;
      sums[i] = kernel_row<C>(row_values, row_values, cols, scale, part.rows().n.get()[side],
                              part.cols.n.get() + at * cols, part.cols.w.get() + at * cols, a.self ? r : -1);
    });
    const Array<C> products = array_product<C>(kernel.tensor, part.cut(part.cols.cq.tensor, k, n, 0, cols, 0, dim));
    part.each_row(k, n, row, rows, [&](int64_t i, int64_t at, int64_t r, int64_t side) {
      finish_forward_row<T, C>(a, first + at, r, beta_of<T, C>(a.bandwidth, first + at), part.rows().row(side), sums[i],
                               products.get() + i * dim);
    });
  });
}

template <class T, class C>
void backward_part(const FieldGradArgs<T>& a, int64_t first, int64_t batches, const double* centre) {
  const int64_t dim = a.shape.dim, cols = a.shape.cols;
  Part<T, C> part(a.shape, a.self, true, first, batches, centre);
  part.fill({a.col_x, a.col_score, a.col_grad_phi, a.col_grad_trace},
            {a.row_x, a.row_score, a.row_grad_phi, a.row_grad_trace}, a.bandwidth, C(trace_sign(a)));
  part.blocks([&](int64_t k, int64_t n, int64_t row, int64_t rows) {
    const Tensor row_x = part.cut(part.rows().x.tensor, k, n, row, rows, 0, dim),
                 col_x = part.cut(part.cols.x.tensor, k, n, 0, cols, 0, dim);
    const Tensor col_cq = part.cut(part.cols.cq.tensor, k, n, 0, cols, 0, 2 * dim);
    const Array<C> gram = array_product_with_transposed<C>(row_x, col_x, part.square(rows));
    const Array<C> kernel({n, rows, cols});
    const Array<C> weighted = part.cross_products(k, n, row, rows);
    std::vector<KernelSums<C>> sums(n * rows);
    std::vector<std::pair<C, C>> weights(n * rows);
    part.each_row(k, n, row, rows, [&](int64_t i, int64_t at, int64_t r, int64_t side) {
      const C scale = beta_of<T, C>(a.bandwidth, first + at) * C(pair::kLog2E);
      C *log2_kappa = gram.get() + i * cols, *kappa = kernel.get() + i * cols;
      sums[i] = kernel_row<C>(log2_kappa, kappa, cols, scale, part.rows().n.get()[side], part.cols.n.get() + at * cols,
                              part.cols.w.get() + at * cols, a.self ? r : -1);
      weights[i] =
          weight_row<C>(weighted.get() + i * cols, kappa, log2_kappa, part.rows().row(side), part.cols.columns(at));
    });
    const Array<C> kappa_cq = array_product<C>(kernel.tensor, col_cq),
                   weighted_x = array_product<C>(weighted.tensor, col_x);
    part.each_row(k, n, row, rows, [&](int64_t i, int64_t at, int64_t r, int64_t side) {
      C* const sum_cq = kappa_cq.get() + i * 2 * dim;
      finish_backward_row<T, C>(a, first + at, r, beta_of<T, C>(a.bandwidth, first + at), part.rows().row(side),
                                sums[i], weights[i], sum_cq, sum_cq + dim, weighted_x.get() + i * dim);
    });
  });
}

}  // namespace

template <class T>
void field_forward_matmul(const FieldArgs<T>& a) {
  by_spread(a, [&](int64_t b, int64_t n, const double* centres, auto zero) {
    forward_part<T, decltype(zero)>(a, b, n, centres);
  });
}

template <class T>
void field_backward_matmul(const FieldGradArgs<T>& a) {
  by_spread(a, [&](int64_t b, int64_t n, const double* centres, auto zero) {
    backward_part<T, decltype(zero)>(a, b, n, centres);
  });
}

template void field_forward_matmul(const FieldArgs<float>&);
template void field_forward_matmul(const FieldArgs<double>&);
template void field_backward_matmul(const FieldGradArgs<float>&);
template void field_backward_matmul(const FieldGradArgs<double>&);

}  // namespace svgdx::SVGDX_ISA
