// Completes a row from its sums over the columns, for all CPU kernels.
#pragma once

#include "field/args.h"

namespace svgdx::SVGDX_ISA {

// z[d] = sum_j kappa z_ij[d] over all j; trace = sum_j kappa (D - r.z) over the j that count.
template <class T, class C>
inline void finish_forward(const FieldArgs<T>& a, int64_t b, int64_t i, C beta, const C* z, int64_t z_stride,
                           C trace_sum) {
  const int64_t dim = a.shape.dim, row = b * a.shape.rows + i;
  const C inv_m = C(1) / C(a.shape.cols);
  const C t = beta * inv_m * trace_sum;
  const bool step = a.step.data != nullptr;
  const C eps = step ? C(a.step.data[b * a.step.stride]) : C(0);
  C dot = 0;
  for (int64_t d = 0; d < dim; ++d) {
    const C phi = z[d * z_stride] * inv_m;
    if (a.phi) a.phi[row * dim + d] = T(step ? C(a.query[row * dim + d]) + eps * phi : phi);
    if (a.stein) {
      const C s = C(a.score[row * dim + d]);
      dot += s * (a.stein_diagonal ? phi : phi - s * inv_m);
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

// A row's sums in the backward pass, before the factors beta / M and 1 / M.
template <class C>
struct RowSums {
  const C* grad_x;      // dL/dx_i = beta / M times this
  const C* grad_score;  // dL/ds_i = 1 / M times this
  const C* z;           // phi_i = 1 / M times this
  int64_t stride;       // from one dimension to the next
  C trace;              // t_i = beta / M times this
};

template <class T, class C>
inline void finish_backward(const FieldGradArgs<T>& a, int64_t b, int64_t i, C beta, const RowSums<C>& sums) {
  const int64_t dim = a.shape.dim, row = b * a.shape.rows + i;
  const C inv_m = C(1) / C(a.particles);
  const bool step = a.step.data != nullptr;
  const C eps = step ? C(a.step.data[b * a.step.stride]) : C(1);
  const C upstream_t = a.row_grad_trace ? C(a.row_grad_trace[row]) : C(0);
  const C t = beta * inv_m * sums.trace;
  C g_phi = 0, x_gx = 0, s_gs = 0;
  for (int64_t d = 0; d < dim; ++d) {
    const int64_t at = row * dim + d;
    const C gx = sums.grad_x[d * sums.stride] * beta * inv_m, gs = sums.grad_score[d * sums.stride] * inv_m;
    const C upstream = a.row_grad_phi ? C(a.row_grad_phi[at]) : C(0);
    g_phi += upstream * sums.z[d * sums.stride] * inv_m;
    x_gx += (C(a.row_x[at]) - C(a.origin.data[b * a.origin.stride + d])) * gx;
    if (a.row_score) s_gs += C(a.row_score[at]) * gs;
    a.grad_x[at] = T(step ? gx + upstream : gx);
    if (a.grad_score) a.grad_score[at] = T(gs);
  }
  const C h = step ? -eps * upstream_t : upstream_t;
  if (a.euler) a.euler[row] = T(-(step ? eps * g_phi : g_phi) - 2 * h * t - x_gx + s_gs);
  const C hessian = a.hessian_trace ? C(a.hessian_trace[row]) * inv_m : C(0);
  if (a.dot) a.dot[row] = T(g_phi - upstream_t * (t + hessian));
}

// The gradients that reach phi and t of a row or column; with a step, g = step * grad_phi and h = -step * grad_trace.
template <class T, class C>
struct Upstream {
  C g_scale, h_scale;
  Upstream(C g_scale, C h_scale) : g_scale(g_scale), h_scale(h_scale) {}
  Upstream(const FieldGradArgs<T>& a, int64_t b) {
    const C eps = a.step.data ? C(a.step.data[b * a.step.stride]) : C(1);
    g_scale = eps;
    h_scale = a.step.data ? -eps : C(1);
  }
};

template <class T, class C>
inline C beta_of(const PerBatch<T>& bandwidth, int64_t b) {
  const C sigma = C(bandwidth.data[b * bandwidth.stride]);
  return C(1) / (sigma * sigma);
}

}  // namespace svgdx::SVGDX_ISA
