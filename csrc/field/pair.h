// The mathematics of one pair (i, j), shared by all kernels. V is a scalar (CUDA) or a SIMD vector of rows (CPU).
// The kernels form the sums over the D dimensions; the formulas below combine them. Notation as in field/args.h.
#pragma once

#include "common/hd.h"

namespace svgdx::pair {

// log2(kappa) = -beta |r|^2 / 2 * log2(e)
constexpr double kLog2E = 1.4426950408889634074;

// Summand of t_i without beta/M: kappa (D - r.z).
template <class V>
SVGDX_HD V trace_term(V kappa, V dim, V r_dot_z) {
  return kappa * (dim - r_dot_z);
}

// The lanes of a scalar, as VecType<T> of common/vec.h has those of a vector.
template <class T>
struct Scalar {
  using V = T;
};

// Sums over the dimensions: |r|^2, r.s_j, r.s_i, g_i.s_j + g_j.s_i, (g_i - g_j).r with r = r_ij, where g, h are the
// gradients that reach phi and t.
template <class Lanes>
struct Sums {
  typename Lanes::V squared, r_s_j, r_s_i, g_s, g_r;
};

// A pair's weights in the gradients of L = (1/M) sum_ij kappa_ij P_ij, P_ij = g_i . z_ij + beta h_i (D - r_ij . z_ij).
template <class Lanes>
struct Weights {
  using V = typename Lanes::V;
  V kappa, kappa_beta;
  V across;  // kappa (P_ij + P_ji - g_s)
  V value;   // kappa (P_ij + P_ji)
  V radial;  // factor of -r in M dL/dx_i / beta: kappa (P_ij + P_ji + 2 beta (h_i + h_j))

  // log_kappa must be finite. Every product with beta has the factor kappa, so that the terms of a far pair vanish
  // instead of overflowing.
  SVGDX_HD Weights(const Sums<Lanes>& sums, V kappa, V log_kappa, V beta, V h_i, V h_j, V half_dim)
      : kappa(kappa), kappa_beta(kappa * beta) {
    const V h_sum = h_i + h_j, h_twice = h_sum + h_sum;
    across = kappa_beta * (sums.g_r - h_i * sums.r_s_j + h_j * sums.r_s_i + h_twice * (half_dim + log_kappa));
    value = kappa * sums.g_s + across;
    radial = value + kappa_beta * h_twice;
  }
  // What a pair adds, from each of its ends, to the sum over all rows that is -M sigma dL/dsigma. Only close pairs
  // contribute, so that nothing cancels between particles many sigma apart. With sigma dbeta/dsigma = -2 beta,
  //   M sigma dL/dsigma = -2 sum_ij kappa [ P_ij ln kappa + beta (g_i.r + h_i (D - r.z_ij + 2 ln kappa)) ].
  // log_sigma_term is half the sum of the terms of (i, j) and (j, i).
  SVGDX_HD V log_sigma_term(V log_kappa) const { return log_kappa * radial + across; }
};

// Jacobian ops, B_i = dL/dA_i:  L = (beta/M) sum_{i != j} kappa_ij q_ij,  q_ij = tr B_i - z_ij . B_i r_ij.
// Particle k against j, with r = r_kj, a = B_k r, b = B_j r, w = z_jk = s_k - beta r:  radial = q_kj + q_jk.
template <class V>
SVGDX_HD V jacobian_radial(V trace_sum, V z_dot_a, V w_dot_b) {
  return trace_sum - z_dot_a + w_dot_b;
}

// One dimension of dL/dx_k, without -kappa beta / M and without B_k^T z_kj, from which B_k is factored out of the sum:
//   beta (radial r + a + b) - B_j^T w
template <class V>
SVGDX_HD V jacobian_grad_x(V beta, V radial, V r, V a_plus_b, V bt_w) {
  return beta * (radial * r + a_plus_b) - bt_w;
}

}  // namespace svgdx::pair
