// A row of the expanded sums: from its Gram row to kernel values and from the products with them to the results, for
// the kernels whose products are computed apart. The algebra is that of pack.h.
#pragma once

#include <utility>

#include "common/vec_products.h"
#include "field/cpu/spread.h"

namespace svgdx::SVGDX_ISA {

// A row's sums over its columns.
template <class C>
struct KernelSums {
  C kappa = 0, kappa_w = 0, kappa_log = 0;
};

// Replaces a Gram row by log2 kappa and writes kappa to kernel; both may be the same array. Column `self` (-1: none) is
// excluded: its kappa is 0.
template <class C>
KernelSums<C> kernel_row(C* gram, C* kernel, int64_t cols, C scale, C row_n, const C* col_n, const C* col_w,
                         int64_t self) {
  Vec<C> sums[3] = {};
  int64_t j = 0;
  for (; j + kLanes<C> <= cols; j += kLanes<C>) {
    Vec<C> log_kappa = load(gram + j) * scale - row_n - load(col_n + j), kappa = exp2_nonpositive<C>(log_kappa);
    if (uint64_t(self - j) < uint64_t(kLanes<C>)) log_kappa[self - j] = kappa[self - j] = C(0);
    store(gram + j, log_kappa);
    store(kernel + j, kappa);
    sums[0] += kappa;
    sums[1] += kappa * load(col_w + j);
    sums[2] += kappa * log_kappa;
  }
  KernelSums<C> total{lane_sum<C>(sums[0]), lane_sum<C>(sums[1]), lane_sum<C>(sums[2])};
  for (; j < cols; ++j) {
    C log_kappa = gram[j] * scale - row_n - col_n[j], kappa = exp2_nonpositive<C>(splat(log_kappa))[0];
    if (j == self) log_kappa = kappa = C(0);
    gram[j] = log_kappa;
    kernel[j] = kappa;
    total.kappa += kappa;
    total.kappa_w += kappa * col_w[j];
    total.kappa_log += kappa * log_kappa;
  }
  return total;
}

// One particle: x centred, C, q, and its scalars as in pack.h, hb = H; q, hb and delta with gradients only.
template <class C>
struct ExpandedRow {
  const C *x, *c, *q;
  C n, w, hb, delta;
  C half() const { return n / C(pair::kLog2E); }
};

// sum_j kappa (D - r.z) from x . sum_j kappa C.
template <class C>
C trace_sum(int64_t dim, const ExpandedRow<C>& row, const KernelSums<C>& sums, C x_c) {
  return (C(dim) - row.half()) * sums.kappa - x_c + sums.kappa_w + C(kLn2) * sums.kappa_log;
}

// A row's share of the sum of pair::Weights::log_sigma_term. ln kappa = beta x_i.x_j - X_i - X_j and the sums of both
// calls are symmetric in i and j, so that X_j is counted with row j:
//   sum weight ln kappa = sum_i (beta x_i . sum_j weight x_j - 2 X_i sum_j weight),
// and beta g_r likewise. x_c, x_q and x_wx are x . sum_j kappa C, kappa q and kappa weight x.
template <class C>
C log_sigma_sum(int64_t dim, C beta, const ExpandedRow<C>& row, const KernelSums<C>& sums, C kappa_h, C weight, C x_c,
                C x_q, C x_wx) {
  const C across = sums.kappa * (row.delta - C(dim + 1) * row.hb) - beta * x_q - row.half() * kappa_h +
                   row.hb * trace_sum(dim, row, sums, x_c);
  return beta * x_wx + C(2) * (across - row.half() * weight);
}

// Completes a row from z = sum of kappa C over the columns other than itself.
template <class T, class C>
void finish_forward_row(const FieldArgs<T>& a, int64_t b, int64_t i, C beta, const ExpandedRow<C>& row,
                        const KernelSums<C>& sums, C* z) {
  const int64_t dim = a.shape.dim;
  const C trace = trace_sum(dim, row, sums, dot<C>(row.x, z, dim)), weight = beta * sums.kappa;
  // Its own score, which C + beta x would round where beta is large.
  const T* const own = a.self ? a.score + (b * a.shape.rows + i) * dim : nullptr;
  if (own) {
#pragma GCC ivdep
    for (int64_t d = 0; d < dim; ++d) z[d] += weight * row.x[d] + C(own[d]);
  } else {
#pragma GCC ivdep
    for (int64_t d = 0; d < dim; ++d) z[d] += weight * row.x[d];
  }
  finish_forward<T, C>(a, b, i, beta, z, 1, trace);
}

// The columns' scalars.
template <class C>
struct ExpandedColumns {
  const C *w, *hb, *delta;
  int64_t count;
};

// Replaces weighted, q_i.C_j + C_i.q_j on entry, by kappa weight. Returns the sums of kappa H and of kappa weight.
template <class C>
std::pair<C, C> weight_row(C* weighted, const C* kernel, const C* log2_kappa, const ExpandedRow<C>& row,
                           const ExpandedColumns<C>& cols) {
  auto weigh = [&](auto p, auto kappa, auto log2, auto wj, auto hj, auto dj) {
    const auto log_kappa = log2 * C(kLn2);
    return kappa * (p + row.delta + dj + row.hb * (wj + log_kappa) + hj * (row.w + log_kappa));
  };
  Vec<C> sum_h = {}, sum_weight = {};
  int64_t j = 0;
  for (; j + kLanes<C> <= cols.count; j += kLanes<C>) {
    const Vec<C> kappa = load(kernel + j), h = load(cols.hb + j);
    const Vec<C> value =
        weigh(load(weighted + j), kappa, load(log2_kappa + j), load(cols.w + j), h, load(cols.delta + j));
    store(weighted + j, value);
    sum_weight += value;
    sum_h += kappa * h;
  }
  C total_h = lane_sum<C>(sum_h), total_weight = lane_sum<C>(sum_weight);
  for (; j < cols.count; ++j) {
    weighted[j] = weigh(weighted[j], kernel[j], log2_kappa[j], cols.w[j], cols.hb[j], cols.delta[j]);
    total_weight += weighted[j];
    total_h += kernel[j] * cols.hb[j];
  }
  return {total_h, total_weight};
}

// Completes a row from the sums over the columns other than itself of kappa C, kappa q and kappa weight x; weights are
// those of kappa H and of kappa weight.
template <class T, class C>
void finish_backward_row(const FieldGradArgs<T>& a, int64_t b, int64_t i, C beta, const ExpandedRow<C>& row,
                         const KernelSums<C>& sums, std::pair<C, C> weights, C* kappa_c, C* kappa_q, C* weighted_x) {
  const int64_t dim = a.shape.dim;
  // Copies, which the stores below cannot change, so that the loop is vectorised.
  const C kappa_h = weights.first, weight = weights.second, kappa = sums.kappa, hb = row.hb;
  const C *const x = row.x, *const c = row.c, *const q = row.q;
  C *const gs = kappa_q, *const gx = weighted_x;
  const C log_sigma = log_sigma_sum(dim, beta, row, sums, kappa_h, weight, dot<C>(row.x, kappa_c, dim),
                                    dot<C>(row.x, kappa_q, dim), dot<C>(row.x, weighted_x, dim));
#pragma GCC ivdep
  for (int64_t d = 0; d < dim; ++d) {
    gx[d] = beta * (q[d] * kappa - gs[d] - x[d] * weight + gx[d]) - hb * kappa_c[d] + c[d] * kappa_h;
    gs[d] += x[d] * kappa_h;
  }
  finish_backward<T, C>(a, b, i, {gx, gs, 1, weight - hb * kappa - kappa_h, log_sigma});
}

}  // namespace svgdx::SVGDX_ISA
