// Second pass of the Jacobian ops' backward: particle k gathers over all j, in both of its roles. `Row` is a
// JacobianRow or a JacobianGroup; a `Number` is shared by all lanes, or one for each.
//
// With B_i = dL/dA_i and A_i = (beta/M) sum_{j != i} kappa_ij (I - z_ij r_ij^T),
//   L = (beta/M) sum_{i != j} kappa_ij q_ij,   q_ij = tr B_i - z_ij . B_i r_ij,   and
//   d(kappa_ij q_ij)/dr_ij = -kappa_ij [ beta (q_ij + B_i) r_ij + B_i^T z_ij ],   d/ds_j = -kappa_ij B_i r_ij.
// With r = r_kj, a = B_k r, b = B_j r, w = z_jk = s_k - beta r, the roles i = k and j = k of particle k sum to
//   dL/dx_k = -(beta/M) { sum_j kappa [ beta (q_kj + q_jk) r + beta (a + b) - B_j^T w ] + B_k^T sum_j kappa z_kj },
//   dL/ds_k = (beta/M) sum_j kappa b,   q_kj + q_jk = tr B_k + tr B_j - z . a + w . b,
// and sum_k x_k . dL/dx_k is half the sum over pairs of r . (the pair's term of dL/dx_k), exact for distant clusters.
#pragma once

#include "jacobian/cpu/row.h"

namespace svgdx::SVGDX_ISA {
// Running sums over the pairs (k, j) for a vector of particles k.
template <class T, int kSize>
struct Gathered {
  Vec<T> x[kSize], score[kSize], kappa_z[kSize], x_dot_grad;
};

// The terms of one pair (k, j), while its products with B_k and B_j are formed.
template <class T, int kSize>
struct Pair {
  Vec<T> r[kSize], bt_w[kSize], a_plus_b[kSize], b[kSize], z[kSize];
  Vec<T> squared, z_dot_a, w_dot_b, r_dot_ab;
};

// Processes kRows rows of B_k and B_j from d on, so that each r and B_j^T w is read and written once for all of them.
template <int kRows, class T, int kSize, class Row, class Number>
SVGDX_INLINE void add_rows(const Row& row, int64_t j, const Number* b_j, const Vec<T>* b_k, const Vec<T>* s_k, int dim,
                           int d, Pair<T, kSize>* pair) {
  Vec<T> a[kRows] = {}, b[kRows] = {}, w[kRows];
  for (int n = 0; n < kRows; ++n) w[n] = s_k[d + n] - row.beta * pair->r[d + n];
  for (int e = 0; e < dim; ++e) {
    for (int n = 0; n < kRows; ++n) {
      const int entry = (d + n) * dim + e;
      a[n] += b_k[entry] * pair->r[e];
      b[n] += b_j[entry] * pair->r[e];
      pair->bt_w[e] += b_j[entry] * w[n];
    }
  }
  for (int n = 0; n < kRows; ++n) {
    const Vec<T> r = pair->r[d + n], z = row.score[j * dim + d + n] + row.beta * r;
    pair->z[d + n] = z;
    pair->b[d + n] = b[n];
    pair->a_plus_b[d + n] = a[n] + b[n];
    pair->z_dot_a += z * a[n];
    pair->w_dot_b += w[n] * b[n];
    pair->r_dot_ab += r * (a[n] + b[n]);
  }
}

// Adds particle j; b_k holds B_k, b_j is one matrix in memory.
template <class T, int kDim, int kSize, class Row, class Number>
SVGDX_INLINE void add_pair(const Row& row, int64_t first, int64_t j, const Number* b_j, const Vec<T>* b_k,
                           Vec<T> trace_k, const Vec<T>* x_k, const Vec<T>* s_k, Gathered<T, kSize>* out) {
  const int dim = kDim ? kDim : row.dim;
  Pair<T, kSize> p;
  p.squared = p.z_dot_a = p.w_dot_b = p.r_dot_ab = Vec<T>{};
  Number trace_j{};
  for (int d = 0; d < dim; ++d) {
    p.r[d] = x_k[d] - row.x[j * dim + d];
    p.squared += p.r[d] * p.r[d];
    p.bt_w[d] = Vec<T>{};
    trace_j += b_j[d * dim + d];
  }
  const Vec<T> kappa = row.kappa(p.squared, first, j);
  const auto far =
      p.squared * row.exponent < T(-1024);  // kappa = 0: use r = 0 there, or r^3 may overflow and give 0 * inf
  p.squared = far ? Vec<T>{} : p.squared;
  for (int d = 0; d < dim; ++d) p.r[d] = far ? Vec<T>{} : p.r[d];
  constexpr int kRows = kDim ? 1 : 2;
  int d = 0;
  for (; d + kRows <= dim; d += kRows) add_rows<kRows>(row, j, b_j, b_k, s_k, dim, d, &p);
  if (d < dim) add_rows<1>(row, j, b_j, b_k, s_k, dim, d, &p);
  const Vec<T> radial = pair::jacobian_radial(trace_k + trace_j, p.z_dot_a, p.w_dot_b), beta = in_lanes<T>(row.beta);
  for (d = 0; d < dim; ++d) {
    out->x[d] += kappa * pair::jacobian_grad_x(beta, radial, p.r[d], p.a_plus_b[d], p.bt_w[d]);
    out->score[d] += kappa * p.b[d];
    out->kappa_z[d] += kappa * p.z[d];
  }
  out->x_dot_grad += kappa * (beta * (radial * p.squared + p.r_dot_ab) + (p.z_dot_a - p.w_dot_b));
}

// `adjoint` has the B_j of all j, b_k that of the lanes; `dot` is their product with A_k.
template <class T, int kDim, class Row, class Number>
void gather(const JacobianGradArgs<T>& args, const Row& row, int64_t first, const Number* adjoint, const Vec<T>* b_k,
            Vec<T> dot) {
  constexpr int kSize = kDim ? kDim : kMaxJacobianDim;
  const int dim = kDim ? kDim : row.dim;
  Vec<T> x_k[kSize], s_k[kSize], trace_k{};
  Gathered<T, kSize> sum{};
  row.own(row.x, first, x_k);
  row.own(row.score, first, s_k);
  for (int d = 0; d < dim; ++d) trace_k += b_k[d * dim + d];
  for (int64_t j = 0; j < row.particles; ++j) {
    add_pair<T, kDim>(row, first, j, adjoint + j * dim * dim, b_k, trace_k, x_k, s_k, &sum);
  }
  Vec<T> euler = T(-2) * dot + T(0.5) * row.scale * sum.x_dot_grad;
  for (int d = 0; d < dim; ++d) {
    for (int e = 0; e < dim; ++e) sum.x[e] += b_k[d * dim + e] * sum.kappa_z[d];
  }
  for (int d = 0; d < dim; ++d) {
    sum.x[d] *= -row.scale;
    sum.score[d] *= row.scale;
    euler += s_k[d] * sum.score[d];
  }
  row.store(sum.x, dim, first, args.grad_x);
  row.store(sum.score, dim, first, args.grad_score);
  row.store(&euler, 1, first, args.euler);
}

}  // namespace svgdx::SVGDX_ISA
