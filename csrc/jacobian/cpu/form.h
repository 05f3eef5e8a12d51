// A_i for a vector of particles i, and the results computed from it: |J|_F^2, log|det(I + eps J)| and dL/dA_i. `Row` is
// a JacobianRow or a JacobianGroup.
#pragma once

#include "jacobian/cpu/row.h"
#include "jacobian/cpu/small_lu.h"

namespace svgdx::SVGDX_ISA {
// a[d * dim + e] = A_i[d][e], one lane per particle i = first, first + 1, ... kDim is dim, or 0 for any dim; then four
// columns j and two rows d are processed at a time, so that sums in memory are read and written less often.
template <class T, int kDim, class Row>
void build(const Row& row, int64_t first, Vec<T>* a) {
  constexpr int kSize = kDim ? kDim : kMaxJacobianDim, kColumns = kDim ? 1 : 4, kRows = kDim ? 1 : 2;
  const int dim = kDim ? kDim : row.dim;
  Vec<T> x_i[kSize], r[kColumns][kSize], kz[kColumns][kSize], sum[kSize * kSize], kappa_sum{};
  row.own(row.x, first, x_i);
  for (int d = 0; d < (dim + kRows - 1) / kRows * kRows * dim; ++d) sum[d] = Vec<T>{};
  for (int64_t start = 0; start < row.particles; start += kColumns) {
    for (int c = 0; c < kColumns; ++c) {
      const int64_t j = start + c;
      for (int d = 0; d < kSize && kDim == 0; ++d) r[c][d] = kz[c][d] = Vec<T>{};
      if (j >= row.particles) continue;
      const auto* x_j = row.x + j * dim;
      const auto* s_j = row.score + j * dim;
      Vec<T> squared{};
      for (int d = 0; d < dim; ++d) {
        r[c][d] = x_i[d] - x_j[d];
        squared += r[c][d] * r[c][d];
      }
      const Vec<T> kappa = row.kappa(squared, first, j);
      const Vec<T> kappa_beta = kappa * row.beta;  // 0 for far pairs, if beta r overflows
      kappa_sum += kappa;
      for (int d = 0; d < dim; ++d) kz[c][d] = kappa * s_j[d] + kappa_beta * r[c][d];
    }
    for (int d = 0; d < dim; d += kRows) {
      for (int e = 0; e < dim; ++e) {
        for (int k = 0; k < kRows; ++k) {
          Vec<T> total = sum[(d + k) * dim + e];
          for (int c = 0; c < kColumns; ++c) total += kz[c][d + k] * r[c][e];
          sum[(d + k) * dim + e] = total;
        }
      }
    }
  }
  for (int d = 0; d < dim; ++d) {
    for (int e = 0; e < dim; ++e) {
      a[d * dim + e] = row.scale * (d == e ? kappa_sum - sum[d * dim + e] : -sum[d * dim + e]);
    }
  }
}

template <class T>
void build(const JacobianGroup<T>& row, int64_t first, Vec<T>* a) {
  build<T, 0>(row, first, a);
}
template <class T>
void build(const JacobianRow<T>& row, int64_t first, Vec<T>* a) {
  switch (row.dim) {
    case 1:
      return build<T, 1>(row, first, a);
    case 2:
      return build<T, 2>(row, first, a);
    case 3:
      return build<T, 3>(row, first, a);
    case 4:
      return build<T, 4>(row, first, a);
    default:
      return build<T, 0>(row, first, a);
  }
}

// |A|_F^2 + (2/M) (A v) . h + |h|^2 / M^2
template <class T, class Row>
Vec<T> square_norm(const JacobianArgs<T>& args, const Row& row, int64_t first, const Vec<T>* a) {
  const int dim = row.dim;
  Vec<T> result{}, v[kMaxJacobianDim], h[kMaxJacobianDim];
  for (int entry = 0; entry < dim * dim; ++entry) result += a[entry] * a[entry];
  if (args.probe == nullptr) return result;
  row.load(args.probe, dim, first, v);
  row.load(args.hvp, dim, first, h);
  const T inverse_m = T(1) / T(row.particles);
  for (int d = 0; d < dim; ++d) {
    Vec<T> a_v{};
    for (int e = 0; e < dim; ++e) a_v += a[d * dim + e] * v[e];
    result += (T(2) * a_v + h[d] * inverse_m) * (h[d] * inverse_m);
  }
  return result;
}

// jacobian = A_i + H_i / M for the particle in `lane`; update = I + eps J.
template <class T, class Row>
void one_jacobian(const JacobianArgs<T>& args, const Row& row, int64_t first, int lane, const Vec<T>* a,
                  double* jacobian, double* update) {
  const int dim = row.dim;
  const double step = double(args.step[row.batch(lane)]);
  const T* hessian = args.hessian == nullptr ? nullptr : args.hessian + row.index(first, lane) * dim * dim;
  for (int entry = 0; entry < dim * dim; ++entry) {
    const double h = hessian == nullptr ? 0 : double(hessian[entry]) / double(row.particles);
    jacobian[entry] = double(a[entry][lane]) + h;
    update[entry] = (entry % (dim + 1) == 0 ? 1 : 0) + step * jacobian[entry];
  }
}

// dL/dA = 2 w A + (2 w / M) h v^T, with w = dL/d(out); also dL/dv and dL/dh.
template <class T, class Row>
void square_norm_adjoint(const JacobianGradArgs<T>& args, const Row& row, int64_t first, const Vec<T>* a,
                         Vec<T>* adjoint) {
  const int dim = row.dim;
  Vec<T> w, v[kMaxJacobianDim], h[kMaxJacobianDim], grad[kMaxJacobianDim];
  row.load(args.grad_out, 1, first, &w);
  w *= T(2);
  for (int entry = 0; entry < dim * dim; ++entry) adjoint[entry] = w * a[entry];
  if (args.forward.probe == nullptr) return;
  row.load(args.forward.probe, dim, first, v);
  row.load(args.forward.hvp, dim, first, h);
  const T inverse_m = T(1) / T(row.particles);
  w *= inverse_m;
  for (int entry = 0; entry < dim * dim; ++entry) adjoint[entry] += w * h[entry / dim] * v[entry % dim];
  if (args.grad_probe != nullptr) {
    for (int e = 0; e < dim; ++e) {
      grad[e] = Vec<T>{};
      for (int d = 0; d < dim; ++d) grad[e] += w * a[d * dim + e] * h[d];
    }
    row.store(grad, dim, first, args.grad_probe);
  }
  if (args.grad_hvp != nullptr) {
    for (int d = 0; d < dim; ++d) {
      grad[d] = w * inverse_m * h[d];
      for (int e = 0; e < dim; ++e) grad[d] += w * a[d * dim + e] * v[e];
    }
    row.store(grad, dim, first, args.grad_hvp);
  }
}

// dL/dA = w eps (I + eps J)^-T; also dL/deps = w tr((I + eps J)^-1 J) and dL/dH = dL/dA / M.
template <class T, class Row>
void log_det_adjoint(const JacobianGradArgs<T>& args, const Row& row, int64_t first, const Vec<T>* a, Vec<T>* adjoint) {
  const int dim = row.dim;
  double jacobian[kMaxJacobianDim * kMaxJacobianDim], inverse[kMaxJacobianDim * kMaxJacobianDim];
  for (int entry = 0; entry < dim * dim; ++entry) adjoint[entry] = Vec<T>{};
  for (int lane = 0; lane < row.lanes(first); ++lane) {
    const int64_t i = row.index(first, lane);
    one_jacobian(args.forward, row, first, lane, a, jacobian, inverse);
    invert(dim, inverse);
    const double w = double(args.grad_out[i]), step = double(args.forward.step[row.batch(lane)]);
    double trace = 0;
    for (int d = 0; d < dim; ++d) {
      for (int e = 0; e < dim; ++e) {
        const double entry = w * inverse[e * dim + d];
        trace += entry * jacobian[d * dim + e];
        adjoint[d * dim + e][lane] = T(step * entry);
        if (args.grad_hessian != nullptr) {
          args.grad_hessian[(i * dim + d) * dim + e] = T(step * entry / double(row.particles));
        }
      }
    }
    if (args.grad_step != nullptr) args.grad_step[i] = T(trace);
  }
}

template <class T, class Row>
void forward_vector(const JacobianArgs<T>& args, const Row& row, int64_t first) {
  Vec<T> a[kMaxJacobianDim * kMaxJacobianDim], result{};
  build(row, first, a);
  if (!args.step) {
    result = square_norm(args, row, first, a);
  } else {
    double jacobian[kMaxJacobianDim * kMaxJacobianDim], update[kMaxJacobianDim * kMaxJacobianDim];
    for (int lane = 0; lane < row.lanes(first); ++lane) {
      one_jacobian(args, row, first, lane, a, jacobian, update);
      result[lane] = T(log_abs_det(row.dim, update));
    }
  }
  row.store(&result, 1, first, args.out);
}

// Writes dL/dA_i to `adjoint` and returns its product with A_i.
template <class T, class Row>
Vec<T> adjoint_vector(const JacobianGradArgs<T>& args, const Row& row, int64_t first, Vec<T>* adjoint) {
  Vec<T> a[kMaxJacobianDim * kMaxJacobianDim], dot{};
  build(row, first, a);
  if (!args.forward.step) {
    square_norm_adjoint(args, row, first, a, adjoint);
  } else {
    log_det_adjoint(args, row, first, a, adjoint);
  }
  for (int entry = 0; entry < row.dim * row.dim; ++entry) dot += adjoint[entry] * a[entry];
  return dot;
}

}  // namespace svgdx::SVGDX_ISA
