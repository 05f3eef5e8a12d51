// |J_i|_F^2 if D is too large to form A_i: from Gram matrices, O(M^2) per particle, with torch's matrix products.
//
// With X centred, C = S - beta X, G = X X^T, F = C C^T, U = X C^T, a_ij = beta U_ij + beta^2 G_ii / 2,
// b_ij = G_ii / 2 - G_ij:   z_ij . z_il = F_jl + a_ij + a_il,   r_ij . r_il = G_jl + b_ij + b_il,   so that
//   |sum_j kappa_ij z_ij r_ij^T|^2 = [K (F o G) o K + 2 K b (K F) + 2 K a (K G) + 2 k K a b] summed over j
//                                    + 2 (sum_j K a) (sum_j K b),   k_i = sum_j kappa_ij, j = i excluded throughout.
// The expansion cancels if particles are many sigma apart: for particles up to rho sigma from their mean, the relative
// error is up to (1 + rho^2)^2 times that of the type. It is evaluated in float64, and so is its gradient: float32
// would have an error of 1e-4 at rho = 6, 3e-5 in the gradient, and the host cannot know rho without waiting for the
// GPU. Only (M, M) matrices are formed, for a few batch rows at a time.
#pragma once

#include <algorithm>

#include "common/products.h"

namespace svgdx::gram {

inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return torch::stable::subtract(a, b); }
inline Tensor operator+(const Tensor& a, const Tensor& b) { return torch::stable::subtract(a, b, -1.0); }
inline Tensor transposed(const Tensor& a) { return torch::stable::transpose(a, -2, -1); }
inline Tensor sum(const Tensor& a, int64_t dim) {
  return torch::stable::sum(a, torch::headeronly::IntHeaderOnlyArrayRef({dim}), true);
}
inline Tensor rows(const Tensor& a) { return sum(a, -1); }
inline Tensor dots(const Tensor& a, const Tensor& b) { return rows(a * b); }

// The route's inputs for a chunk of c batch rows, all float64: x centred, C, v and h, (c, M, D), and each particle's
// dots x.h, v.h and h.h, (c, M, 3).
struct Rows {
  Tensor x, c;
  OptionalTensor probe, hvp, dots;
};

// The intermediate results of |J_i|_F^2 for a chunk of c batch rows, all float64; the backward pass reuses them.
struct GramForward {
  Tensor x, beta;                            // X centred, (c, M, D); beta (c, 1, 1)
  Tensor inv_m2, half, two, dim;             // 0-d constants: 1 / M^2, 1 / 2, 2, D
  OptionalTensor probe, hvp;                 // v, h, (c, M, D)
  OptionalTensor x_hvp, probe_hvp, hvp_hvp;  // x_i . h_i, v_i . h_i, |h_i|^2, (c, M, 1)
  Tensor c;                                  // C = S - beta X, (c, M, D)
  Tensor g, f, u, g_diag;                    // G = X X^T, F = C C^T, U = X C^T, (c, M, M); G_ii, (c, M, 1)
  Tensor kernel, a, b;                       // K_ij = kappa_ij with a zero diagonal, a_ij, b_ij
  Tensor rho;                                // rho_ij = r_ij . z_ij
  Tensor kf, kg, ke;                         // K F, K G, K (F o G)
  Tensor k, tau;                             // sum over j of K, K rho, (c, M, 1)
  Tensor sum_a, sum_b, sum_ab;               // sum over j of K a, K b, K a b, (c, M, 1)
  Tensor p, q, zeta;                         // p_ij = h_i . z_ij, q_ij = v_i . r_ij; sum over j of K p q

  Tensor number(double value) const {
    return torch::stable::full({}, value, ScalarType::Double, std::nullopt, x.device());
  }
  static Tensor diagonal_column(const Tensor& m) {
    return torch::stable::unsqueeze(aten("diagonal", "", m, int64_t(0), int64_t(-2), int64_t(-1)), -1);
  }

  GramForward(const Rows& rows_in, const Tensor& beta_in)
      : x(rows_in.x), beta(beta_in), probe(rows_in.probe), hvp(rows_in.hvp), c(rows_in.c) {
    if (probe) {
      Tensor all = *rows_in.dots;
      x_hvp = torch::stable::narrow(all, 2, 0, 1);
      probe_hvp = torch::stable::narrow(all, 2, 1, 1);
      hvp_hvp = torch::stable::narrow(all, 2, 2, 1);
    }
    const double count = double(x.size(1));
    inv_m2 = number(1.0 / (count * count));
    half = number(0.5), two = number(2.0), dim = number(double(x.size(2)));
    g = product(x, transposed(x), true), f = product(c, transposed(c), true), u = product(x, transposed(c));
    g_diag = diagonal_column(g);
    kernel = aten("exp", "", beta * (g - half * (g_diag + transposed(g_diag))));
    a = beta * u + half * beta * beta * g_diag;
    b = half * g_diag - g;
    Tensor diagonal = aten("diagonal", "", kernel, int64_t(0), int64_t(-2), int64_t(-1));
    torch::stable::zero_(diagonal);  // r_ii = 0, so j = i contributes nothing, but its large terms would have to cancel
    k = rows(kernel);
    rho = u + beta * (g_diag - g) - transposed(diagonal_column(u));
    tau = dots(kernel, rho);
    kf = product(kernel, f), kg = product(kernel, g), ke = product(kernel, f * g);
    sum_a = dots(kernel, a), sum_b = dots(kernel, b), sum_ab = dots(kernel, a * b);
    if (!probe) return;
    p = product(*hvp, transposed(c)) + beta * *x_hvp;
    const Tensor probe_x = product(*probe, transposed(x));
    q = diagonal_column(probe_x) - probe_x;
    zeta = dots(kernel, p * q);
  }

  Tensor a_sqnorm() const {
    const Tensor n = dots(kernel, ke + two * (b * kf + a * kg)) + two * (k * sum_ab + sum_a * sum_b);
    return beta * beta * inv_m2 * (dim * k * k - two * k * tau + n);
  }
  Tensor cross() const { return two * beta * inv_m2 * (k * *probe_hvp - zeta); }
};

struct Gradients {
  Tensor x, score, euler;  // euler: one number per particle; they sum to sigma dL/dsigma
  OptionalTensor probe, hvp;
};

// The adjoint of sqnorm = a_sqnorm + cross + |h|^2 / M^2, line by line; bar_v is dL/dv. w: (c, M, 1), dL/d sqnorm.
inline Gradients backward(const GramForward& m, const Tensor& w) {
  const Tensor alpha = w * m.beta * m.beta * m.inv_m2, alpha2 = m.two * alpha;
  const Tensor ka = m.kernel * m.a, kb = m.kernel * m.b;
  Tensor bar_kernel = alpha2 * (m.ke + m.b * m.kf + m.a * m.kg + product(kb, m.f) + product(ka, m.g) + m.k * m.a * m.b +
                                m.sum_ab + m.a * m.sum_b + m.b * m.sum_a);
  const Tensor bar_e = product(transposed(m.kernel), alpha * m.kernel);
  const Tensor bar_f = bar_e * m.g + product(transposed(m.kernel), alpha2 * kb);
  const Tensor bar_a = alpha2 * m.kernel * (m.kg + m.k * m.b + m.sum_b);
  const Tensor bar_b = alpha2 * m.kernel * (m.kf + m.k * m.a + m.sum_a);
  Tensor bar_g = bar_e * m.f + product(transposed(m.kernel), alpha2 * ka) - bar_b;
  const Tensor bar_tau = m.number(-1.0) * alpha2 * m.k;
  const Tensor bar_rho = bar_tau * m.kernel;
  const Tensor bar_u = m.beta * bar_a + bar_rho;
  const Tensor bar_u_diag = m.number(-1.0) * transposed(sum(bar_rho, -2));
  Tensor bar_diag = m.half * (m.beta * m.beta * rows(bar_a) + rows(bar_b)) + m.beta * rows(bar_rho);
  bar_g = bar_g - m.beta * bar_rho;
  Tensor bar_k = alpha2 * (m.dim * m.k - m.tau);
  Tensor euler = m.number(-4.0) * w * m.a_sqnorm();
  Gradients out;
  Tensor bar_x, bar_c;
  if (m.probe) {
    const Tensor gamma = m.two * w * m.beta * m.inv_m2;
    bar_k = bar_k + gamma * *m.probe_hvp;
    euler = euler - m.two * w * m.cross();
    bar_kernel = bar_kernel - gamma * m.p * m.q;
    const Tensor bar_p = m.number(-1.0) * gamma * m.kernel * m.q, bar_q = m.number(-1.0) * gamma * m.kernel * m.p;
    const Tensor bar_xh = m.beta * rows(bar_p), bar_xv = rows(bar_q);
    out.hvp = product(bar_p, m.c) + bar_xh * m.x + gamma * m.k * *m.probe + m.two * w * m.inv_m2 * *m.hvp;
    out.probe = bar_xv * m.x - product(bar_q, m.x) + gamma * m.k * *m.hvp;
    bar_c = product(transposed(bar_p), *m.hvp);
    bar_x = bar_xh * *m.hvp + bar_xv * *m.probe - product(transposed(bar_q), *m.probe);
  } else {
    bar_c = m.number(0.0) * m.c, bar_x = m.number(0.0) * m.x;
  }
  bar_kernel = bar_kernel + bar_tau * m.rho + bar_k;
  const Tensor bar_log = bar_kernel * m.kernel;
  bar_g = bar_g + m.beta * bar_log;
  bar_diag = bar_diag - m.half * m.beta * (rows(bar_log) + transposed(sum(bar_log, -2)));
  bar_c = bar_c + product(bar_f + transposed(bar_f), m.c) + product(transposed(bar_u), m.x) + bar_u_diag * m.x;
  bar_x = bar_x + product(bar_g + transposed(bar_g), m.x) + m.two * bar_diag * m.x + product(bar_u, m.c) +
          bar_u_diag * m.c - m.beta * bar_c;
  out.x = bar_x;
  out.score = bar_c;
  out.euler = euler - dots(m.x, bar_x) + dots(m.c + m.beta * m.x, bar_c);
  return out;
}

}  // namespace svgdx::gram
