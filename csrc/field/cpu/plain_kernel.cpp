// Direct differences, pair by pair, for particles that are too many bandwidths apart for products even in double.
// Nearly all pairs are too far to interact, and cost one pass over the dimensions.
#include <algorithm>

#include "common/cpu/parallel_for.h"
#include "common/vec_rows.h"
#include "field/cpu/kernels.h"
#include "field/cpu/row.h"
#include "memory/buffer.h"

namespace svgdx::SVGDX_ISA {
namespace {

template <class T>
struct PlainKernel {
  Vec<T> log2_kappa, kappa;
  PlainKernel(T beta, T squared)
      : log2_kappa(bounded_exponent<T>(splat(beta * squared * T(-0.5 * pair::kLog2E)))),
        kappa(exp2_nonpositive<T>(log2_kappa)) {}
};

// Row n of an array of vectors; null means zeros, which `none` holds.
template <class T>
const T* row_or(const T* array, int64_t n, int64_t dim, const T* none) {
  return array ? array + n * dim : none;
}

template <class T>
void forward_row(const FieldArgs<T>& a, int64_t b, int64_t i, T* z) {
  const int64_t dim = a.shape.dim, cols = a.shape.cols;
  const T beta = beta_of<T, T>(a.bandwidth, b), *x_i = a.query + (b * a.shape.rows + i) * dim;
  T trace = 0;
  std::fill_n(z, dim, T(0));
  for (int64_t j = 0; j < cols; ++j) {
    const T *x_j = a.x + (b * cols + j) * dim, *s_j = a.score + (b * cols + j) * dim;
    Vec<T> squared = {}, r_s = {};
    for_vectors<T>(dim, [&](int64_t d, auto access) {
      const Vec<T> r = access.load(x_i + d) - access.load(x_j + d);
      squared += r * r;
      r_s += r * access.load(s_j + d);
    });
    const PlainKernel<T> kernel(beta, horizontal_sum<T>(squared));
    const T kappa = kernel.kappa[0], kappa_beta = kappa * beta;
    if (kappa == T(0)) continue;
    if (!a.self || j != i) {
      trace += pair::trace_term(kappa, T(dim), horizontal_sum<T>(r_s) - T(2 * kLn2) * kernel.log2_kappa[0]);
    }
    for_vectors<T>(dim, [&](int64_t d, auto access) {
      const Vec<T> r = access.load(x_i + d) - access.load(x_j + d);
      access.store(z + d, access.load(z + d) + kappa * access.load(s_j + d) + kappa_beta * r);
    });
  }
  finish_forward<T, T>(a, b, i, beta, z, 1, trace);
}

template <class T>
struct PlainSums {
  T value = 0, log_sigma = 0;
  T *gx, *gs;
};

// Adds column j, which is not the row itself.
template <class T>
void add_column(const FieldGradArgs<T>& a, int64_t row, int64_t col, T beta, const T* none, PlainSums<T>* sums) {
  const int64_t dim = a.shape.dim;
  const T *x_i = a.row_x + row * dim, *s_i = row_or(a.row_score, row, dim, none);
  const T *g_i = row_or(a.row_grad_phi, row, dim, none), *x_j = a.col_x + col * dim;
  const T *s_j = row_or(a.col_score, col, dim, none), *g_j = row_or(a.col_grad_phi, col, dim, none);
  const T h_i = a.row_grad_trace ? a.row_grad_trace[row] * trace_sign(a) : T(0);
  const T h_j = a.col_grad_trace ? a.col_grad_trace[col] * trace_sign(a) : T(0);
  pair::Sums<VecType<T>> lanes = {};
  for_vectors<T>(dim, [&](int64_t d, auto access) {
    const Vec<T> r = access.load(x_i + d) - access.load(x_j + d), gi = access.load(g_i + d), gj = access.load(g_j + d);
    const Vec<T> si = access.load(s_i + d), sj = access.load(s_j + d);
    lanes.squared += r * r;
    lanes.r_s_j += r * sj;
    lanes.r_s_i += r * si;
    lanes.g_s += gi * sj + gj * si;
    lanes.g_r += r * (gi - gj);
  });
  const pair::Sums<pair::Scalar<T>> total{horizontal_sum<T>(lanes.squared), horizontal_sum<T>(lanes.r_s_j),
                                          horizontal_sum<T>(lanes.r_s_i), horizontal_sum<T>(lanes.g_s),
                                          horizontal_sum<T>(lanes.g_r)};
  const PlainKernel<T> kernel(beta, total.squared);
  if (kernel.kappa[0] == T(0)) return;
  const T log_kappa = T(kLn2) * kernel.log2_kappa[0];
  const pair::Weights<pair::Scalar<T>> w(total, kernel.kappa[0], log_kappa, beta, h_i, h_j, T(0.5) * T(dim));
  sums->value += w.value;
  sums->log_sigma += w.log_sigma_term(log_kappa);
  for_vectors<T>(dim, [&](int64_t d, auto access) {
    const Vec<T> r = access.load(x_i + d) - access.load(x_j + d), gi = access.load(g_i + d), gj = access.load(g_j + d);
    const Vec<T> si = access.load(s_i + d), sj = access.load(s_j + d);
    const Vec<T> pull = w.kappa * (gi - gj - h_i * sj + h_j * si) - w.radial * r;
    access.store(sums->gx + d, access.load(sums->gx + d) + beta * pull);
    access.store(sums->gs + d, access.load(sums->gs + d) + w.kappa * gj + w.kappa_beta * h_j * r);
  });
}

template <class T>
void backward_row(const FieldGradArgs<T>& a, int64_t b, int64_t i, const T* none, T* memory) {
  const int64_t dim = a.shape.dim, cols = a.shape.cols;
  const T beta = beta_of<T, T>(a.bandwidth, b);
  PlainSums<T> sums;
  sums.gx = memory, sums.gs = memory + dim;
  std::fill_n(memory, 2 * dim, T(0));
  for (int64_t j = 0; j < cols; ++j) {
    if (!a.self || j != i) add_column(a, b * a.shape.rows + i, b * cols + j, beta, none, &sums);
  }
  finish_backward<T, T>(a, b, i, {sums.gx, sums.gs, 1, sums.value, sums.log_sigma});
}

}  // namespace

template <class T>
void field_forward_plain(const FieldArgs<T>& a, int64_t first, int64_t batches) {
  const int64_t rows = a.shape.rows;
  cpu::parallel_for(0, batches * rows, 1, [&](int64_t begin, int64_t end) {
    const Buffer<T> z(a.shape.dim);
    for (int64_t n = begin; n < end; ++n) forward_row(a, first + n / rows, n % rows, z.get());
  });
}

template <class T>
void field_backward_plain(const FieldGradArgs<T>& a, int64_t first, int64_t batches) {
  const int64_t rows = a.shape.rows, dim = a.shape.dim;
  cpu::parallel_for(0, batches * rows, 1, [&](int64_t begin, int64_t end) {
    const Buffer<T> memory(3 * dim);
    std::fill_n(memory.get(), dim, T(0));
    for (int64_t n = begin; n < end; ++n) {
      backward_row(a, first + n / rows, n % rows, memory.get(), memory.get() + dim);
    }
  });
}

template void field_forward_plain(const FieldArgs<float>&, int64_t, int64_t);
template void field_forward_plain(const FieldArgs<double>&, int64_t, int64_t);
template void field_backward_plain(const FieldGradArgs<float>&, int64_t, int64_t);
template void field_backward_plain(const FieldGradArgs<double>&, int64_t, int64_t);

}  // namespace svgdx::SVGDX_ISA
