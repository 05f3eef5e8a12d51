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

// With g, h the gradients that reach phi and t:  L = (1/M) sum_ij kappa_ij P_ij,
//   P_ij = g_i . z_ij + beta h_i (D - r_ij . z_ij).
// weight = P_ij + P_ji + beta (h_i + h_j), from
//   cross = g_i . z_ij + g_j . z_ji - beta (h_i r_ij . z_ij + h_j r_ji . z_ji)
template <class V>
SVGDX_HD V weight(V cross, V beta, V h_sum, V dim_plus_1) {
  return cross + beta * h_sum * dim_plus_1;
}

// One dimension of dL/dx_i, without kappa beta / M:
//   g_i - g_j - h_i z_ij + h_j z_ji - weight r_ij
template <class V>
SVGDX_HD V grad_x(V g_i, V g_j, V h_i, V h_j, V z_ij, V z_ji, V r, V weight) {
  return (g_i - g_j) - h_i * z_ij + h_j * z_ji - weight * r;
}

// One dimension of dL/ds_i, without kappa / M: what each row j that reads s_i contributes.
template <class V>
SVGDX_HD V grad_score(V g_j, V h_j, V beta, V r_ij) {
  return g_j + beta * h_j * r_ij;
}

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
