// One batch row of the Gram route: the matrices and sums of csrc/jacobian/gram.h, and |J_i|_F^2 from them.
//
// If 2 D < M, the products K F, K G and those with K o a and K o b go through D columns: K F = (K C) C^T.
#pragma once

#include <algorithm>
#include <vector>

#include "common/beta.h"
#include "field/cpu/spread.h"
#include "field/pair.h"
#include "jacobian/args.h"
#include "jacobian/cpu/gram_products.h"

namespace svgdx::SVGDX_ISA {

// A particle's numbers: |x|^2, x.c, n = log2(e) beta |x|^2 / 2 and, with a probe, x.h, v.h and h.h.
template <class C>
struct GramParticle {
  C squared, x_c, n, x_h, v_h, h_h;
};

// A row's sums over j of kappa_ij and of kappa_ij times rho, a, b, a b and p q.
template <class C>
struct GramSums {
  C k, tau, a, b, ab, zeta;
};

// Quantities of one pair, see csrc/jacobian/gram.h.
template <class C>
struct GramPair {
  Vec<C> rho, a, b;
};

template <class T, class C>
class GramProblem {
 public:
  GramProblem(const JacobianArgs<T>& args, bool small)
      : args(args),
        m(args.particles),
        d(args.dim),
        low_rank(2 * args.dim < args.particles),
        multiply(small, args.particles, std::max(args.particles, args.dim)),
        x(m, d),
        c(m, d),
        v(args.probe ? m : 0, d),
        h(args.probe ? m : 0, d),
        g(m, m),
        f(m, m),
        u(m, m),
        hc(args.probe ? m : 0, m),
        vx(args.probe ? m : 0, m),
        kernel(m, m),
        ka(m, m),
        kb(m, m),
        fg(m, m),
        ke(m, m),
        kf(low_rank ? 0 : m, m),
        kg(low_rank ? 0 : m, m),
        kernel_c(low_rank ? m : 0, d),
        kernel_x(low_rank ? m : 0, d),
        kb_c(low_rank ? m : 0, d),
        ka_x(low_rank ? m : 0, d),
        particles(m),
        sums(m),
        n(spaced<C>(m)),
        x_c(spaced<C>(m)) {
    // kappa is exactly 0 in the padding.
    std::fill_n(n.get(), spaced<C>(m), C(2048));
    std::fill_n(x_c.get(), spaced<C>(m), C(0));
  }

  // Reads batch row `row`. Returns false if C is float and too narrow for it.
  bool load_row(int64_t row) {
    batch = row;
    beta = C(beta_of_sigma(double(args.bandwidth[row]), kLargestSquarableBeta));
    const int64_t first = row * m * d;
    std::vector<C> centre(d, C(0));
    for (int64_t j = 0; j < m; ++j) {
      for (int64_t i = 0; i < d; ++i) centre[i] += C(args.x[first + j * d + i]);
    }
    for (C& mean : centre) mean *= C(1) / C(m);
    multiply.each_row(m, [&](int64_t j) { load_particle(first + j * d, j, centre.data()); });
    if constexpr (sizeof(C) == 4) return is_narrow();
    return true;
  }

  // The products that both passes need.
  void products() {
    multiply({x}, {x, true}, g, true);
    multiply({c}, {c, true}, f, true);
    multiply({x}, {c, true}, u);
    if (args.probe) {
      multiply({h}, {c, true}, hc);
      multiply({v}, {x, true}, vx);
    }
    multiply.each_row(m, [&](int64_t i) { kernel_row(i); });
    multiply({kernel}, {fg}, ke);
    if (low_rank) {
      multiply({kernel}, {c}, kernel_c);
      multiply({kernel}, {x}, kernel_x);
      multiply({kb}, {c}, kb_c);
      multiply({ka}, {x}, ka_x);
    } else {
      multiply({kernel}, {f}, kf);
      multiply({kernel}, {g}, kg);
    }
  }

  // |A_i|_F^2 and (2 / M) (A_i v_i) . h_i
  double square(int64_t i) const {
    const GramSums<C>& s = sums[i];
    Vec<C> sum{};
    for (int64_t j = 0; j < m; j += kLanes<C>) {
      Vec<C> term = load(kernel[i] + j) * load(ke[i] + j);
      if (!low_rank) term += C(2) * (load(kb[i] + j) * load(kf[i] + j) + load(ka[i] + j) * load(kg[i] + j));
      sum += term;
    }
    double total = double(lane_sum<C>(sum));
    if (low_rank) {
      total += 2 * (double(dot<C>(kernel_c[i], kb_c[i], d)) + double(dot<C>(kernel_x[i], ka_x[i], d)));
    }
    const double k = s.k, b2 = double(beta) * double(beta);
    total += 2 * (k * double(s.ab) + double(s.a) * double(s.b));
    return b2 * (double(d) * k * k - 2 * k * double(s.tau) + total) / (double(m) * double(m));
  }
  double cross(int64_t i) const {
    if (!args.probe) return 0;
    const double sum = double(sums[i].k) * double(particles[i].v_h) - double(sums[i].zeta);
    return 2 * double(beta) * sum / (double(m) * double(m));
  }
  double own(int64_t i) const { return args.probe ? double(particles[i].h_h) / (double(m) * double(m)) : 0; }

  SVGDX_INLINE GramPair<C> pair(int64_t i, int64_t j) const {
    const GramParticle<C>& row = particles[i];
    const Vec<C> gij = load(g[i] + j), uij = load(u[i] + j);
    return {uij + beta * (row.squared - gij) - load(x_c.get() + j), beta * (uij + C(0.5) * beta * row.squared),
            C(0.5) * row.squared - gij};
  }
  SVGDX_INLINE Vec<C> p(int64_t i, int64_t j) const { return load(hc[i] + j) + beta * particles[i].x_h; }
  SVGDX_INLINE Vec<C> q(int64_t i, int64_t j) const { return vx_own(i) - load(vx[i] + j); }

  const JacobianArgs<T>& args;
  int64_t m, d, batch = 0;
  bool low_rank;
  C beta = 0;
  GramProducts<C> multiply;
  Matrix<C> x, c, v, h;                      // (M, D)
  Matrix<C> g, f, u, hc, vx;                 // X X^T, C C^T, X C^T, H C^T, V X^T
  Matrix<C> kernel, ka, kb, fg, ke, kf, kg;  // K, K o a, K o b, F o G, K (F o G), K F, K G
  Matrix<C> kernel_c, kernel_x, kb_c, ka_x;  // K C, K X, (K o b) C, (K o a) X
  std::vector<GramParticle<C>> particles;
  std::vector<GramSums<C>> sums;
  Buffer<C> n, x_c;  // of all particles, padded

 private:
  C vx_own(int64_t i) const { return vx[i][i]; }

  void load_particle(int64_t at, int64_t j, const C* centre) {
    C *const xr = x[j], *const cr = c[j];
    for (int64_t i = 0; i < d; ++i) {
      xr[i] = C(args.x[at + i]) - centre[i];
      cr[i] = C(args.score[at + i]) - beta * xr[i];
    }
    GramParticle<C>& particle = particles[j];
    particle.squared = dot<C>(xr, xr, d);
    x_c.get()[j] = particle.x_c = dot<C>(xr, cr, d);
    n.get()[j] = particle.n = C(0.5 * svgdx::pair::kLog2E) * beta * particle.squared;
    if (!args.probe) return;
    for (int64_t i = 0; i < d; ++i) {
      v[j][i] = C(args.probe[at + i]);
      h[j][i] = C(args.hvp[at + i]);
    }
    particle.x_h = dot<C>(xr, h[j], d);
    particle.v_h = dot<C>(v[j], h[j], d);
    particle.h_h = dot<C>(h[j], h[j], d);
  }

  // Whether float loses no digits to the expansion, and nothing leaves its range.
  bool is_narrow() const {
    if (!(beta > C(1e-10) && beta < C(1e10))) return false;
    for (int64_t j = 0; j < m; ++j) {
      if (!(beta * particles[j].squared <= C(kNarrowSquare) && dot<C>(c[j], c[j], d) <= C(1e15) * beta)) return false;
    }
    return true;
  }

  void kernel_row(int64_t i) {
    const C scale = beta * C(svgdx::pair::kLog2E), own_n = particles[i].n;
    Vec<C> total[6] = {};
    for (int64_t j = 0; j < m; j += kLanes<C>) {
      const Vec<C> gij = load(g[i] + j);
      Vec<C> kappa = exp2_nonpositive<C>(gij * scale - own_n - load(n.get() + j));
      // r_ii = 0, so j = i contributes nothing, but its large terms would have to cancel.
      if (uint64_t(i - j) < uint64_t(kLanes<C>)) kappa[i - j] = C(0);
      const GramPair<C> values = pair(i, j);
      const Vec<C> kappa_a = kappa * values.a, kappa_b = kappa * values.b;
      store(kernel[i] + j, kappa);
      store(ka[i] + j, kappa_a);
      store(kb[i] + j, kappa_b);
      store(fg[i] + j, gij * load(f[i] + j));
      total[0] += kappa;
      total[1] += kappa * values.rho;
      total[2] += kappa_a;
      total[3] += kappa_b;
      total[4] += kappa_a * values.b;
      if (args.probe) total[5] += kappa * p(i, j) * q(i, j);
    }
    sums[i] = {lane_sum<C>(total[0]), lane_sum<C>(total[1]), lane_sum<C>(total[2]),
               lane_sum<C>(total[3]), lane_sum<C>(total[4]), lane_sum<C>(total[5])};
  }

  static constexpr double kNarrowSquare = 8;  // largest (|x| / sigma)^2
};

}  // namespace svgdx::SVGDX_ISA
