// |J_i|_F^2 if D is too large to form A_i: from Gram matrices, O(M^2) per particle, with matrix products.
//
// With X centred, C = S - beta X, G = X X^T, F = C C^T, U = X C^T, a_ij = beta U_ij + beta^2 G_ii / 2,
// b_ij = G_ii / 2 - G_ij:   z_ij . z_il = F_jl + a_ij + a_il,   r_ij . r_il = G_jl + b_ij + b_il,   so that
//   |sum_j kappa_ij z_ij r_ij^T|^2 = [K (F o G) o K + 2 K b (K F) + 2 K a (K G) + 2 k K a b] summed over j
//                                    + 2 (sum_j K a) (sum_j K b),   k_i = sum_j kappa_ij, j = i excluded throughout,
// rho_ij = r_ij . z_ij, tau_i = sum_j kappa_ij rho_ij, p_ij = h_i . z_ij and q_ij = v_i . r_ij.
// The expansion cancels if particles are many sigma apart: for particles up to rho sigma from their mean, the relative
// error is up to (1 + rho^2)^2 times that of the type. It is evaluated in float64, and so is its gradient: float32
// would have an error of 1e-4 at rho = 6, 3e-5 in the gradient, and the host cannot know rho without waiting for the
// GPU. The CPU knows it, and computes many float32 particles that are close together in float32.
//
// Gradient: with w = dL/d|J_i|^2, alpha = w beta^2 / M^2, and bar_v for dL/dv,
//   bar_K = 2 alpha [K (F o G) + b (K F) + a (K G) + (K b) F + (K a) G + k a b + sum K a b + a sum K b + b sum K a
//                    - k rho + D k - tau],
//   bar_E = K alpha K,   bar_F = bar_E o G + K (2 alpha K b),   bar_G = bar_E o F + K (2 alpha K a) - bar_b + ...,
//   bar_a = 2 alpha K (K G + k b + sum K b),   bar_b = 2 alpha K (K F + k a + sum K a),   bar_rho = -2 alpha k K.
#pragma once
