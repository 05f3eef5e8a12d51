// Large dimensions: torch computes the two matrix products; the steps between them run here row by row, in blocks of
// (batch rows, rows, columns) kernel values. The algebra is that of pack.h.
#include <torch/csrc/stable/ops.h>

#include <vector>

#include "field/cpu/kernels.h"
#include "field/cpu/matmul_part.h"
#include "field/cpu/spread.h"

namespace svgdx::SVGDX_ISA {
namespace {

// A row's sums over its columns.
template <class C>
struct KernelSums {
  C kappa = 0, kappa_w = 0, kappa_log = 0;
};

// Replaces columns [begin, end) of a Gram row by log2 kappa and writes kappa to kernel; both may be the same array.
template <class C>
void kernel_range(C* gram, C* kernel, int64_t begin, int64_t end, C scale, C row_n, const C* col_n, const C* col_w,
                  KernelSums<C>& total) {
  Vec<C> sums[3] = {};
  int64_t j = begin;
  for (; j + kLanes<C> <= end; j += kLanes<C>) {
    const Vec<C> log_kappa = load(gram + j) * scale - row_n - load(col_n + j);
    const Vec<C> kappa = exp2_nonpositive<C>(log_kappa);
    store(gram + j, log_kappa);
    store(kernel + j, kappa);
    sums[0] += kappa;
    sums[1] += kappa * load(col_w + j);
    sums[2] += kappa * log_kappa;
  }
  total.kappa += horizontal_sum<C>(sums[0]);
  total.kappa_w += horizontal_sum<C>(sums[1]);
  total.kappa_log += horizontal_sum<C>(sums[2]);
  for (; j < end; ++j) {
    const C log_kappa = gram[j] * scale - row_n - col_n[j], kappa = exp2_nonpositive<C>(splat(log_kappa))[0];
    gram[j] = log_kappa;
    kernel[j] = kappa;
    total.kappa += kappa;
    total.kappa_w += kappa * col_w[j];
    total.kappa_log += kappa * log_kappa;
  }
}

// The same for a whole row, excluding column `self` (-1: none).
template <class C>
KernelSums<C> kernel_row(C* gram, C* kernel, int64_t cols, C scale, C row_n, const C* col_n, const C* col_w,
                         int64_t self) {
  KernelSums<C> total;
  kernel_range(gram, kernel, 0, self < 0 ? cols : self, scale, row_n, col_n, col_w, total);
  if (self < 0) return total;
  gram[self] = kernel[self] = C(0);
  kernel_range(gram, kernel, self + 1, cols, scale, row_n, col_n, col_w, total);
  return total;
}

template <class T, class C>
void forward_part(const FieldArgs<T>& a, int64_t first, int64_t batches, const double* centre) {
  const FieldShape& s = a.shape;
  const int64_t dim = s.dim, cols = s.cols;
  Part<T, C> part(s, a.self, false, first, batches, centre);
  part.fill({a.x, a.score, nullptr, nullptr}, {a.query, nullptr, nullptr, nullptr}, a.bandwidth,
            [](int64_t) { return Upstream<T, C>(C(0), C(0)); });
  part.blocks([&](int64_t k, int64_t n, int64_t row, int64_t rows) {
    const Tensor kernel = product_with_transposed(part.cut(part.rows().x, k, n, row, rows, 0, dim),
                                                  part.cut(part.cols.x, k, n, 0, cols, 0, dim), part.square(rows));
    std::vector<KernelSums<C>> sums(n * rows);
    part.each_row(k, n, row, rows, [&](int64_t i, int64_t at, int64_t r, int64_t side) {
      const C scale = beta_of<T, C>(a.bandwidth, first + at) * C(pair::kLog2E);
      C* row_values = out<C>(kernel) + i * cols;
      sums[i] = kernel_row<C>(row_values, row_values, cols, scale, part.rows().n.get()[side],
                              part.cols.n.get() + at * cols, part.cols.w.get() + at * cols, a.self ? r : -1);
    });
    const Tensor products = product(kernel, part.cut(part.cols.cq, k, n, 0, cols, 0, dim));
    part.each_row(k, n, row, rows, [&](int64_t i, int64_t at, int64_t r, int64_t side) {
      const C beta = beta_of<T, C>(a.bandwidth, first + at), half = part.rows().n.get()[side] / C(pair::kLog2E);
      const C *x = part.rows().x_row(side), *c = part.rows().c_row(side);
      C* z = out<C>(products) + i * dim;
      const C trace =
          (C(dim) - half) * sums[i].kappa - dot<C>(x, z, dim) + sums[i].kappa_w + C(kLn2) * sums[i].kappa_log;
      const C weight = beta * (a.self ? sums[i].kappa + C(1) : sums[i].kappa), own = a.self ? C(1) : C(0);
      for (int64_t d = 0; d < dim; ++d) z[d] += weight * x[d] + own * c[d];
      finish_forward<T, C>(a, first + at, r, beta, z, 1, trace);
    });
  });
}

// Replaces weighted, q_i.C_j + C_i.q_j on entry, by kappa weight. Returns the sums of kappa H and of kappa weight.
template <class C>
std::pair<C, C> weight_row(C* weighted, const C* kernel, const C* log2_kappa, const Side<C>& rows, int64_t row,
                           const Side<C>& cols, int64_t first_col) {
  const C *w = cols.w.get() + first_col, *hb = cols.hb.get() + first_col, *delta = cols.delta.get() + first_col;
  const C row_w = rows.w.get()[row], row_hb = rows.hb.get()[row], row_delta = rows.delta.get()[row];
  auto weigh = [&](auto p, auto kappa, auto log2, auto wj, auto hj, auto dj) {
    const auto log_kappa = log2 * C(kLn2);
    return kappa * (p + row_delta + dj + row_hb * (wj + log_kappa) + hj * (row_w + log_kappa));
  };
  Vec<C> sum_h = {}, sum_weight = {};
  int64_t j = 0;
  for (; j + kLanes<C> <= cols.count; j += kLanes<C>) {
    const Vec<C> kappa = load(kernel + j), h = load(hb + j);
    const Vec<C> value = weigh(load(weighted + j), kappa, load(log2_kappa + j), load(w + j), h, load(delta + j));
    store(weighted + j, value);
    sum_weight += value;
    sum_h += kappa * h;
  }
  C total_h = horizontal_sum<C>(sum_h), total_weight = horizontal_sum<C>(sum_weight);
  for (; j < cols.count; ++j) {
    weighted[j] = weigh(weighted[j], kernel[j], log2_kappa[j], w[j], hb[j], delta[j]);
    total_weight += weighted[j];
    total_h += kernel[j] * hb[j];
  }
  return {total_h, total_weight};
}

template <class T, class C>
void finish_backward_row(const FieldGradArgs<T>& a, const Part<T, C>& part, int64_t at, int64_t r, int64_t side,
                         const KernelSums<C>& sums, std::pair<C, C> weights, C* kappa_cq, C* weighted_x) {
  const int64_t dim = a.shape.dim;
  const Side<C>& rows = part.rows();
  const C beta = beta_of<T, C>(a.bandwidth, part.first + at), half = rows.n.get()[side] / C(pair::kLog2E);
  const C *x = rows.x_row(side), *c = rows.c_row(side), *q = rows.q_row(side);
  const C bh = rows.hb.get()[side], h = bh / beta, kappa_h = weights.first / beta, self = a.self ? C(1) : C(0);
  const C trace = (C(dim) - half) * sums.kappa - dot<C>(x, kappa_cq, dim) + sums.kappa_w + C(kLn2) * sums.kappa_log;
  C *z = kappa_cq, *gs = kappa_cq + dim, *gx = weighted_x;
  for (int64_t d = 0; d < dim; ++d) {
    gx[d] = q[d] * sums.kappa - h * z[d] - gs[d] + c[d] * kappa_h - x[d] * weights.second + gx[d];
    gs[d] += x[d] * weights.first + self * (q[d] + bh * x[d]);
    z[d] += beta * x[d] * sums.kappa + self * (c[d] + beta * x[d]);
  }
  finish_backward<T, C>(a, part.first + at, r, beta, {gx, gs, z, 1, trace});
}

template <class T, class C>
void backward_part(const FieldGradArgs<T>& a, int64_t first, int64_t batches, const double* centre) {
  const int64_t dim = a.shape.dim, cols = a.shape.cols;
  Part<T, C> part(a.shape, a.self, true, first, batches, centre);
  part.fill({a.col_x, a.col_score, a.col_grad_phi, a.col_grad_trace},
            {a.row_x, a.row_score, a.row_grad_phi, a.row_grad_trace}, a.bandwidth,
            [&](int64_t b) { return Upstream<T, C>(a, b); });
  part.blocks([&](int64_t k, int64_t n, int64_t row, int64_t rows) {
    const Tensor row_x = part.cut(part.rows().x, k, n, row, rows, 0, dim),
                 col_x = part.cut(part.cols.x, k, n, 0, cols, 0, dim);
    const Tensor col_cq = part.cut(part.cols.cq, k, n, 0, cols, 0, 2 * dim);
    const Tensor gram = product_with_transposed(row_x, col_x, part.square(rows));
    const Tensor kernel = new_empty(gram, sizes_of(gram), kType<C>);
    const Tensor weighted = part.cross_products(k, n, row, rows);
    std::vector<KernelSums<C>> sums(n * rows);
    std::vector<std::pair<C, C>> weights(n * rows);
    part.each_row(k, n, row, rows, [&](int64_t i, int64_t at, int64_t r, int64_t side) {
      const C scale = beta_of<T, C>(a.bandwidth, first + at) * C(pair::kLog2E);
      C *log2_kappa = out<C>(gram) + i * cols, *kappa = out<C>(kernel) + i * cols;
      sums[i] = kernel_row<C>(log2_kappa, kappa, cols, scale, part.rows().n.get()[side], part.cols.n.get() + at * cols,
                              part.cols.w.get() + at * cols, a.self ? r : -1);
      weights[i] =
          weight_row<C>(out<C>(weighted) + i * cols, kappa, log2_kappa, part.rows(), side, part.cols, at * cols);
    });
    const Tensor kappa_cq = product(kernel, col_cq), weighted_x = product(weighted, col_x);
    part.each_row(k, n, row, rows, [&](int64_t i, int64_t at, int64_t r, int64_t side) {
      finish_backward_row<T, C>(a, part, at, r, side, sums[i], weights[i], out<C>(kappa_cq) + i * 2 * dim,
                                out<C>(weighted_x) + i * dim);
    });
  });
}

}  // namespace

template <class T>
void field_forward_matmul(const FieldArgs<T>& a) {
  by_spread<T>(
      a.shape, a.bandwidth, a.x, a.query,
      [&](int64_t b, int64_t n, const double* centres) { forward_part<T, T>(a, b, n, centres); },
      [&](int64_t b, int64_t n, const double* centres) { forward_part<T, double>(a, b, n, centres); });
}

template <class T>
void field_backward_matmul(const FieldGradArgs<T>& a) {
  by_spread<T>(
      a.shape, a.bandwidth, a.col_x, a.row_x,
      [&](int64_t b, int64_t n, const double* centres) { backward_part<T, T>(a, b, n, centres); },
      [&](int64_t b, int64_t n, const double* centres) { backward_part<T, double>(a, b, n, centres); });
}

template void field_forward_matmul(const FieldArgs<float>&);
template void field_forward_matmul(const FieldArgs<double>&);
template void field_backward_matmul(const FieldGradArgs<float>&);
template void field_backward_matmul(const FieldGradArgs<double>&);

}  // namespace svgdx::SVGDX_ISA
