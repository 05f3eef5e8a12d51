// Direct differences, pair by pair: for particles that are too many bandwidths apart for products even in double, of
// which nearly all pairs are too far to interact and cost one pass over the dimensions; and for problems with so few
// particles that products would cost more than their pairs.
#include <algorithm>

#include "common/cpu/parallel_for.h"
#include "common/vec_products.h"
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

// Adds column j, which is not the row itself; with kBoth also to the column's sums, as a row of the same particles.
template <class T, bool kBoth = false>
void add_column(const FieldGradArgs<T>& a, int64_t row, int64_t col, T beta, const T* none, PlainSums<T>* sums,
                PlainSums<T>* other = nullptr) {
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
  const pair::Sums<pair::Scalar<T>> total{lane_sum<T>(lanes.squared), lane_sum<T>(lanes.r_s_j),
                                          lane_sum<T>(lanes.r_s_i), lane_sum<T>(lanes.g_s), lane_sum<T>(lanes.g_r)};
  const PlainKernel<T> kernel(beta, total.squared);
  if (kernel.kappa[0] == T(0)) return;
  const T log_kappa = T(kLn2) * kernel.log2_kappa[0];
  const pair::Weights<pair::Scalar<T>> w(total, kernel.kappa[0], log_kappa, beta, h_i, h_j, T(0.5) * T(dim));
  sums->value += w.value;
  sums->log_sigma += w.log_sigma_term(log_kappa);
  if constexpr (kBoth) {
    other->value += w.value;
    other->log_sigma += w.log_sigma_term(log_kappa);
  }
  for_vectors<T>(dim, [&](int64_t d, auto access) {
    const Vec<T> r = access.load(x_i + d) - access.load(x_j + d), gi = access.load(g_i + d), gj = access.load(g_j + d);
    const Vec<T> si = access.load(s_i + d), sj = access.load(s_j + d);
    const Vec<T> pull = w.kappa * (gi - gj - h_i * sj + h_j * si) - w.radial * r;
    access.store(sums->gx + d, access.load(sums->gx + d) + beta * pull);
    access.store(sums->gs + d, access.load(sums->gs + d) + w.kappa * gj + w.kappa_beta * h_j * r);
    if constexpr (kBoth) {
      access.store(other->gx + d, access.load(other->gx + d) - beta * pull);
      access.store(other->gs + d, access.load(other->gs + d) + w.kappa * gi - w.kappa_beta * h_i * r);
    }
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

// Each pair of problem b once, whose rows are its columns; z has room for all rows.
template <class T>
void forward_pairs(const FieldArgs<T>& a, int64_t b, T* z) {
  const int64_t dim = a.shape.dim, count = a.shape.cols, first = b * count;
  const T beta = beta_of<T, T>(a.bandwidth, b), *const x = a.x + first * dim, *const s = a.score + first * dim;
  T traces[kFewParticles] = {};
  std::copy_n(s, count * dim, z);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = i + 1; j < count; ++j) {
      const T *const x_i = x + i * dim, *const x_j = x + j * dim, *const s_i = s + i * dim, *const s_j = s + j * dim;
      T *const z_i = z + i * dim, *const z_j = z + j * dim;
      Vec<T> squared = {}, r_s_i = {}, r_s_j = {};
      for_vectors<T>(dim, [&](int64_t d, auto access) {
        const Vec<T> r = access.load(x_i + d) - access.load(x_j + d);
        squared += r * r;
        r_s_i += r * access.load(s_i + d);
        r_s_j += r * access.load(s_j + d);
      });
      const PlainKernel<T> kernel(beta, lane_sum<T>(squared));
      const T kappa = kernel.kappa[0], kappa_beta = kappa * beta;
      if (kappa == T(0)) continue;
      const T beta_squared = T(-2 * kLn2) * kernel.log2_kappa[0];
      traces[i] += pair::trace_term(kappa, T(dim), beta_squared + lane_sum<T>(r_s_j));
      traces[j] += pair::trace_term(kappa, T(dim), beta_squared - lane_sum<T>(r_s_i));
      for_vectors<T>(dim, [&](int64_t d, auto access) {
        const Vec<T> push = kappa_beta * (access.load(x_i + d) - access.load(x_j + d));
        access.store(z_i + d, access.load(z_i + d) + kappa * access.load(s_j + d) + push);
        access.store(z_j + d, access.load(z_j + d) + kappa * access.load(s_i + d) - push);
      });
    }
  }
  for (int64_t i = 0; i < count; ++i) finish_forward<T, T>(a, b, i, beta, z + i * dim, 1, traces[i]);
}

// Likewise; `none` has zeros for a row, memory room for two sums of each row.
template <class T>
void backward_pairs(const FieldGradArgs<T>& a, int64_t b, const T* none, T* memory) {
  const int64_t dim = a.shape.dim, count = a.shape.cols;
  const T beta = beta_of<T, T>(a.bandwidth, b);
  PlainSums<T> sums[kFewParticles];
  std::fill_n(memory, 2 * count * dim, T(0));
  for (int64_t i = 0; i < count; ++i) sums[i].gx = memory + 2 * i * dim, sums[i].gs = sums[i].gx + dim;
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = i + 1; j < count; ++j) {
      add_column<T, true>(a, b * count + i, b * count + j, beta, none, &sums[i], &sums[j]);
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    finish_backward<T, T>(a, b, i, {sums[i].gx, sums[i].gs, 1, sums[i].value, sums[i].log_sigma});
  }
}

}  // namespace

bool field_few_fits(const FieldShape& shape, bool self) { return self && shape.cols <= kFewParticles; }

template <class T>
void field_forward_few(const FieldArgs<T>& a) {
  const int64_t numbers = a.shape.cols * a.shape.dim;
  cpu::parallel_for(0, a.shape.batch, 1 + (int64_t(1) << 13) / numbers, [&](int64_t begin, int64_t end) {
    const Buffer<T> z(numbers);
    for (int64_t b = begin; b < end; ++b) forward_pairs(a, b, z.get());
  });
}

template <class T>
void field_backward_few(const FieldGradArgs<T>& a) {
  const int64_t numbers = a.shape.cols * a.shape.dim;
  cpu::parallel_for(0, a.shape.batch, 1 + (int64_t(1) << 13) / numbers, [&](int64_t begin, int64_t end) {
    const Buffer<T> none(a.shape.dim), memory(2 * numbers);
    std::fill_n(none.get(), a.shape.dim, T(0));
    for (int64_t b = begin; b < end; ++b) backward_pairs(a, b, none.get(), memory.get());
  });
}

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

template void field_forward_few(const FieldArgs<float>&);
template void field_forward_few(const FieldArgs<double>&);
template void field_backward_few(const FieldGradArgs<float>&);
template void field_backward_few(const FieldGradArgs<double>&);
template void field_forward_plain(const FieldArgs<float>&, int64_t, int64_t);
template void field_forward_plain(const FieldArgs<double>&, int64_t, int64_t);
template void field_backward_plain(const FieldGradArgs<float>&, int64_t, int64_t);
template void field_backward_plain(const FieldGradArgs<double>&, int64_t, int64_t);

}  // namespace svgdx::SVGDX_ISA
