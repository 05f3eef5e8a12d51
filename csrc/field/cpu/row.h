// Completes a row from its sums over the columns, for all CPU kernels.
#pragma once

#include "common/beta.h"
#include "field/args.h"
#include "field/pair.h"

namespace svgdx::SVGDX_ISA {

constexpr double kLn2 = 0.69314718055994530942;

// z[d] = sum_j kappa z_ij[d] over all j; trace = sum_j kappa (D - r.z) over the j that count.
template <class T, class C>
inline void finish_forward(const FieldArgs<T>& a, int64_t b, int64_t i, C beta, const C* z, int64_t z_stride,
                           C trace_sum) {
  const int64_t dim = a.shape.dim, row = b * a.shape.rows + i;
  const C inv_m = C(1) / C(a.shape.cols);
  const C t = beta * inv_m * trace_sum;
  const bool step = bool(a.step);
  const C eps = C(a.step[b]);
  C dot = 0;
  // The loops of vectors have no branches. z may be where phi is written.
  const auto each_dim = [&](const auto& f) {
    if (z_stride == 1) {
#pragma GCC ivdep
      for (int64_t d = 0; d < dim; ++d) f(d, z[d]);
    } else {
      for (int64_t d = 0; d < dim; ++d) f(d, z[d * z_stride]);
    }
  };
  if (a.stein) {
    const T* const score = a.score + row * dim;
    const C own = a.stein_diagonal ? C(0) : inv_m;
    for (int64_t d = 0; d < dim; ++d) dot += C(score[d]) * (z[d * z_stride] * inv_m - C(score[d]) * own);
  }
  if (a.phi) {
    T* const phi = a.phi + row * dim;
    const T* const query = a.query + row * dim;
    if (step) {
      each_dim([&](int64_t d, C value) { phi[d] = T(C(query[d]) + eps * (value * inv_m)); });
    } else {
      each_dim([&](int64_t d, C value) { phi[d] = T(value * inv_m); });
    }
  }
  if (a.stein) a.stein[row] = T(dot + t + (a.stein_diagonal ? beta * inv_m * C(dim) : C(0)));
  if (!a.trace) return;
  if (!step) {
    a.trace[row] = T(t);
    return;
  }
  const C hessian = a.hessian_trace ? C(a.hessian_trace[row]) * inv_m : C(0);
  a.trace[row] = T(C(a.log_q[row]) - eps * (t + hessian));
}

// A row's sums in the backward pass over the columns other than itself.
template <class C>
struct RowSums {
  const C* grad_x;      // dL/dx_i = 1 / M times this
  const C* grad_score;  // dL/ds_i = 1 / M times this, and g_i if the row is a particle
  int64_t stride;       // from one dimension to the next
  C value;              // kappa (P_ij + P_ji), see pair::Weights
  C log_sigma;          // pair::Weights::log_sigma_term
};

// h = -step * grad_trace with a step, h = grad_trace without. The kernels leave out the step itself: everything is
// linear in the upstream gradients, so it is applied at the end.
template <class T>
inline T trace_sign(const FieldGradArgs<T>& a) {
  return a.step ? T(-1) : T(1);
}

// Whether the rows are the particles, as only they have scores. Sums over the two calls of svgd_field_backward agree
// because both measure x from the particles' centre.
template <class T>
inline bool particle_rows(const FieldGradArgs<T>& a) {
  return a.row_score != nullptr;
}

template <class T, class C>
inline void finish_backward(const FieldGradArgs<T>& a, int64_t b, int64_t i, const RowSums<C>& sums) {
  const int64_t dim = a.shape.dim, row = b * a.shape.rows + i;
  const C inv_m = C(1) / C(a.particles), scale = a.step ? C(a.step[b]) : C(1);
  const T* const upstream = a.row_grad_phi ? a.row_grad_phi + row * dim : nullptr;
  T *const grad_x = a.grad_x + row * dim, *const grad_score = a.grad_score ? a.grad_score + row * dim : nullptr;
  const C factor = scale * inv_m;
  // The loops of vectors have no branches.
  const auto each_dim = [&](const C* values, const auto& f) {
    if (sums.stride == 1) {
#pragma GCC ivdep
      for (int64_t d = 0; d < dim; ++d) f(d, values[d]);
    } else {
      for (int64_t d = 0; d < dim; ++d) f(d, values[d * sums.stride]);
    }
  };
  if (a.step && upstream) {
    each_dim(sums.grad_x, [&](int64_t d, C value) { grad_x[d] = T(factor * value + C(upstream[d])); });
  } else {
    each_dim(sums.grad_x, [&](int64_t d, C value) { grad_x[d] = T(factor * value); });
  }
  if (grad_score && a.self && upstream) {
    each_dim(sums.grad_score, [&](int64_t d, C value) { grad_score[d] = T(factor * (value + C(upstream[d]))); });
  } else if (grad_score) {
    each_dim(sums.grad_score, [&](int64_t d, C value) { grad_score[d] = T(factor * value); });
  }
  if (a.grad_log_sigma) a.grad_log_sigma[row] = double(-scale * sums.log_sigma * inv_m);
  if (!a.dot) return;
  C own = 0;
  for (int64_t d = 0; d < dim && upstream && a.row_score; ++d) own += C(upstream[d]) * C(a.row_score[row * dim + d]);
  const C h = a.row_grad_trace ? C(trace_sign(a) * a.row_grad_trace[row]) : C(0);
  const C hessian = a.hessian_trace ? C(a.hessian_trace[row]) : C(0);
  a.dot[row] = T((C(0.5) * sums.value + own + h * hessian) * inv_m);
}

template <class T, class C>
inline C beta_of(const PerBatch<T>& bandwidth, int64_t b) {
  return beta_of_sigma(C(bandwidth[b]));
}

// Whether beta r may overflow where kappa is 0. The kernels that do not bound it leave such batch rows to
// plain_kernel.cpp.
template <class C>
inline bool is_extreme(C beta) {
  return beta > (sizeof(C) == 8 ? C(0x1p500) : C(0x1p60f));
}

// Calls f(b) for each batch row whose beta is extreme.
template <template <class> class Args, class T, class F>
inline void for_extreme_rows(const Args<T>& a, const F& f) {
  const int64_t rows = a.bandwidth.stride == 0 && !is_extreme(beta_of<T, T>(a.bandwidth, 0)) ? 0 : a.shape.batch;
  for (int64_t b = 0; b < rows; ++b) {
    if (is_extreme(beta_of<T, T>(a.bandwidth, b))) f(b);
  }
}

}  // namespace svgdx::SVGDX_ISA
