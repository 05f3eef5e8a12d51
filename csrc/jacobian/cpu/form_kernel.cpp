// A_i for a vector of particles i, and the results computed from it: |J|_F^2, log|det(I + eps J)| and dL/dA_i.
#include "jacobian/cpu/row.h"
#include "jacobian/cpu/small_lu.h"

namespace svgdx::SVGDX_ISA {
namespace {

// a[d * dim + e] = A_i[d][e], one lane per particle i = first, first + 1, ... kDim is dim, or 0 for any dim; then four
// columns j and two rows d are processed at a time, so that sums in memory are read and written less often.
template <class T, int kDim>
void build(const JacobianRow<T>& row, int64_t first, Vec<T>* a) {
  constexpr int kSize = kDim ? kDim : kMaxJacobianDim, kColumns = kDim ? 1 : 4, kRows = kDim ? 1 : 2;
  const int dim = kDim ? kDim : row.dim;
  Vec<T> x_i[kSize], r[kColumns][kSize], kz[kColumns][kSize], sum[kSize * kSize], kappa_sum{};
  load_lanes(row.x, row.particles, dim, first, x_i);
  for (int d = 0; d < (dim + kRows - 1) / kRows * kRows * dim; ++d) sum[d] = Vec<T>{};
  for (int64_t start = 0; start < row.particles; start += kColumns) {
    for (int c = 0; c < kColumns; ++c) {
      const int64_t j = start + c;
      for (int d = 0; d < kSize && kDim == 0; ++d) r[c][d] = kz[c][d] = Vec<T>{};
      if (j >= row.particles) continue;
      const T* x_j = row.x + j * dim;
      const T* s_j = row.score + j * dim;
      Vec<T> squared{};
      for (int d = 0; d < dim; ++d) {
        r[c][d] = x_i[d] - x_j[d];
        squared += r[c][d] * r[c][d];
      }
      const Vec<T> kappa = off_diagonal_kappa(row, squared, first, j);
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
template <class T>
Vec<T> square_norm(const JacobianArgs<T>& args, const JacobianRow<T>& row, int64_t first, const Vec<T>* a) {
  const int dim = row.dim;
  Vec<T> result{}, v[kMaxJacobianDim], h[kMaxJacobianDim];
  for (int entry = 0; entry < dim * dim; ++entry) result += a[entry] * a[entry];
  if (args.probe == nullptr) return result;
  load_lanes(args.probe + row.offset * dim, row.particles, dim, first, v);
  load_lanes(args.hvp + row.offset * dim, row.particles, dim, first, h);
  const T inverse_m = T(1) / T(row.particles);
  for (int d = 0; d < dim; ++d) {
    Vec<T> a_v{};
    for (int e = 0; e < dim; ++e) a_v += a[d * dim + e] * v[e];
    result += (T(2) * a_v + h[d] * inverse_m) * (h[d] * inverse_m);
  }
  return result;
}

// jacobian = A_i + H_i / M for the particle in `lane`; update = I + eps J.
template <class T>
void one_jacobian(const JacobianArgs<T>& args, const JacobianRow<T>& row, int64_t i, int lane, const Vec<T>* a,
                  double step, double* jacobian, double* update) {
  const int dim = row.dim;
  const T* hessian = args.hessian == nullptr ? nullptr : args.hessian + (row.offset + i) * dim * dim;
  for (int entry = 0; entry < dim * dim; ++entry) {
    const double h = hessian == nullptr ? 0 : double(hessian[entry]) / double(row.particles);
    jacobian[entry] = double(a[entry][lane]) + h;
    update[entry] = (entry % (dim + 1) == 0 ? 1 : 0) + step * jacobian[entry];
  }
}

// dL/dA = 2 w A + (2 w / M) h v^T, with w = dL/d(out); also dL/dv and dL/dh.
template <class T>
void square_norm_adjoint(const JacobianGradArgs<T>& args, const JacobianRow<T>& row, int64_t first, const Vec<T>* a,
                         Vec<T>* adjoint) {
  const int dim = row.dim;
  Vec<T> w, v[kMaxJacobianDim], h[kMaxJacobianDim], grad[kMaxJacobianDim];
  load_lanes(args.grad_out + row.offset, row.particles, 1, first, &w);
  w *= T(2);
  for (int entry = 0; entry < dim * dim; ++entry) adjoint[entry] = w * a[entry];
  if (args.forward.probe == nullptr) return;
  const int64_t offset = row.offset * dim;
  load_lanes(args.forward.probe + offset, row.particles, dim, first, v);
  load_lanes(args.forward.hvp + offset, row.particles, dim, first, h);
  const T inverse_m = T(1) / T(row.particles);
  w *= inverse_m;
  for (int entry = 0; entry < dim * dim; ++entry) adjoint[entry] += w * h[entry / dim] * v[entry % dim];
  if (args.grad_probe != nullptr) {
    for (int e = 0; e < dim; ++e) {
      grad[e] = Vec<T>{};
      for (int d = 0; d < dim; ++d) grad[e] += w * a[d * dim + e] * h[d];
    }
    store_lanes(grad, row.particles, dim, first, args.grad_probe + offset);
  }
  if (args.grad_hvp != nullptr) {
    for (int d = 0; d < dim; ++d) {
      grad[d] = w * inverse_m * h[d];
      for (int e = 0; e < dim; ++e) grad[d] += w * a[d * dim + e] * v[e];
    }
    store_lanes(grad, row.particles, dim, first, args.grad_hvp + offset);
  }
}

// dL/dA = w eps (I + eps J)^-T; also dL/deps = w tr((I + eps J)^-1 J) and dL/dH = dL/dA / M.
template <class T>
void log_det_adjoint(const JacobianGradArgs<T>& args, const JacobianRow<T>& row, double step, int64_t first,
                     const Vec<T>* a, Vec<T>* adjoint) {
  const int dim = row.dim;
  double jacobian[kMaxJacobianDim * kMaxJacobianDim], inverse[kMaxJacobianDim * kMaxJacobianDim];
  for (int entry = 0; entry < dim * dim; ++entry) adjoint[entry] = Vec<T>{};
  for (int lane = 0; lane < kLanes<T> && first + lane < row.particles; ++lane) {
    const int64_t i = row.offset + first + lane;
    one_jacobian(args.forward, row, first + lane, lane, a, step, jacobian, inverse);
    invert(dim, inverse);
    const double w = double(args.grad_out[i]);
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

template <class T>
double step_of(const JacobianArgs<T>& args, const JacobianRow<T>& row) {
  return double(args.step[row.offset / row.particles]);
}

}  // namespace

template <class T>
void jacobian_forward_items(const JacobianArgs<T>& args, int64_t begin, int64_t end) {
  for_each_vector(args, begin, end, [&](const JacobianRow<T>& row, int64_t first) {
    Vec<T> a[kMaxJacobianDim * kMaxJacobianDim], result{};
    build(row, first, a);
    if (!args.step) {
      result = square_norm(args, row, first, a);
    } else {
      double jacobian[kMaxJacobianDim * kMaxJacobianDim], update[kMaxJacobianDim * kMaxJacobianDim];
      for (int lane = 0; lane < kLanes<T> && first + lane < row.particles; ++lane) {
        one_jacobian(args, row, first + lane, lane, a, step_of(args, row), jacobian, update);
        result[lane] = T(log_abs_det(row.dim, update));
      }
    }
    store_lanes(&result, row.particles, 1, first, args.out + row.offset);
  });
}

template <class T>
void jacobian_adjoint_items(const JacobianGradArgs<T>& args, int64_t begin, int64_t end) {
  for_each_vector(args.forward, begin, end, [&](const JacobianRow<T>& row, int64_t first) {
    const int entries = row.dim * row.dim;
    Vec<T> a[kMaxJacobianDim * kMaxJacobianDim], adjoint[kMaxJacobianDim * kMaxJacobianDim], dot{};
    build(row, first, a);
    if (!args.forward.step) {
      square_norm_adjoint(args, row, first, a, adjoint);
    } else {
      log_det_adjoint(args, row, step_of(args.forward, row), first, a, adjoint);
    }
    for (int entry = 0; entry < entries; ++entry) dot += adjoint[entry] * a[entry];
    store_lanes(adjoint, row.particles, entries, first, args.adjoint + row.offset * entries);
    store_lanes(&dot, row.particles, 1, first, args.euler + row.offset);
  });
}

template void jacobian_forward_items(const JacobianArgs<float>&, int64_t, int64_t);
template void jacobian_forward_items(const JacobianArgs<double>&, int64_t, int64_t);
template void jacobian_adjoint_items(const JacobianGradArgs<float>&, int64_t, int64_t);
template void jacobian_adjoint_items(const JacobianGradArgs<double>&, int64_t, int64_t);

}  // namespace svgdx::SVGDX_ISA
