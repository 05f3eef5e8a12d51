// Packs rows and columns for the tiled kernels: blocks of kBlock particles, transposed for the first product (lanes are
// columns) and row-major for the second (lanes are dimensions).
//
// With x centred, C = s - beta x, q = g - beta h x, X = beta |x|^2 / 2 (see field/args.h for the rest):
//   log2 kappa_ij = x'_i . x'_j - n_i - n_j,          x' = x sqrt(beta log2 e), n = |x'|^2 / 2
//   sum_j kappa z_ij = sum_j kappa C_j + beta x_i sum_j kappa
//   sum_j kappa (D - r.z) = (D - X_i) sum kappa - x_i . sum kappa C_j + sum kappa w_j + ln2 sum kappa log2 kappa,
//                           w = x . C + X
//   weight_ij = q_i . C_j + C_i . q_j + delta_i + delta_j + H_i (w_j + ln2 log2 kappa) + H_j (w_i + ln2 log2 kappa),
//               H = beta h, delta = beta g . x + H (D + 1 - X)
// The products cancel if |x'| is large, so batch rows with n above kMaxSpread are computed in double, and those with n
// above kMaxWideSpread pair by pair.
#pragma once

#include <cmath>
#include <utility>

#include "common/vec.h"
#include "field/cpu/spread.h"

namespace svgdx::SVGDX_ISA {

constexpr int64_t kBlock = 96;  // a multiple of kTileRows and, in every instruction set, of kTileVectors vectors
constexpr int kTileRows = 4;
constexpr int kTileVectors = 3;
constexpr double kFar = 1e30;  // n in the padding, where kappa is then 0

inline int64_t blocks_of(int64_t count) { return (count + kBlock - 1) / kBlock; }

// Layout of the arrays of one packed set, in elements of C per batch row.
template <class C>
struct PackLayout {
  int64_t count, dim, width, blocks, padded;
  bool gradients;
  PackLayout(int64_t count, int64_t dim, bool gradients)
      : count(count), dim(dim), blocks(blocks_of(count)), padded(blocks * kBlock), gradients(gradients) {
    width = (dim + kLanes<C> - 1) / kLanes<C> * kLanes<C>;
    if (width * sizeof(C) % 512 == 0) width += kLanes<C>;  // a power-of-two stride would use few cache sets
  }
  int64_t transposed() const { return padded * dim; }
  int64_t rowwise() const { return padded * width; }
  int64_t scalars() const { return padded * (gradients ? 4 : 2); }
  int64_t total() const { return transposed() * (gradients ? 3 : 1) + rowwise() * (gradients ? 3 : 1) + scalars(); }
};

// The packed set of one batch row.
template <class C>
struct Pack {
  C *xt, *ct, *qt;        // [block][dim][kBlock]; ct and qt with gradients only
  C *c, *q, *x;           // [padded][width]; q and x with gradients only
  C *n, *w, *hb, *delta;  // [padded]; hb and delta with gradients only
  Pack(const PackLayout<C>& l, C* base)
      : ct(nullptr), qt(nullptr), q(nullptr), x(nullptr), hb(nullptr), delta(nullptr) {
    auto take = [&](int64_t size) { return std::exchange(base, base + size); };
    c = take(l.rowwise());
    if (l.gradients) q = take(l.rowwise()), x = take(l.rowwise());
    xt = take(l.transposed());
    if (l.gradients) ct = take(l.transposed()), qt = take(l.transposed());
    n = take(l.padded), w = take(l.padded);
    if (l.gradients) hb = take(l.padded), delta = take(l.padded);
  }
};

// The plain arrays that a packed set is built from; null means zeros.
template <class T>
struct PackSource {
  const T *x, *score, *grad_phi, *grad_trace;
};

template <class T, class C>
void pack_block(const PackLayout<C>& l, const Pack<C>& p, const PackSource<T>& src, const C* centre, C beta, C h_sign,
                int64_t block) {
  const C scale = std::sqrt(beta * C(pair::kLog2E));
  const int64_t dim = l.dim, width = l.width;
  for (int64_t lane = 0; lane < kBlock; ++lane) {
    const int64_t j = block * kBlock + lane;
    const bool inside = j < l.count;
    const C h = inside && src.grad_trace ? C(src.grad_trace[j]) * h_sign : C(0);
    C norm = 0, x_c = 0, x_g = 0;
    C *const c = p.c + j * width, *const q = p.q ? p.q + j * width : nullptr,
             *const xr = p.x ? p.x + j * width : nullptr;
    for (int64_t d = 0; d < dim; ++d) {
      const int64_t at = j * dim + d, t = (block * dim + d) * kBlock + lane;
      const C x = inside ? C(src.x[at]) - centre[d] : C(0);
      const C s = inside && src.score ? C(src.score[at]) : C(0);
      const C cd = inside ? s - beta * x : C(0);
      norm += x * x;
      x_c += x * cd;
      c[d] = cd;
      p.xt[t] = x * scale;
      if (!l.gradients) continue;
      const C g = inside && src.grad_phi ? C(src.grad_phi[at]) : C(0);
      const C qd = g - beta * h * x;
      x_g += x * g;
      q[d] = qd;
      xr[d] = x;
      p.ct[t] = cd;
      p.qt[t] = qd;
    }
    for (int64_t d = dim; d < width; ++d) {
      c[d] = C(0);
      if (l.gradients) q[d] = xr[d] = C(0);
    }
    const C half = C(0.5) * beta * norm;
    p.n[j] = inside ? half * C(pair::kLog2E) : C(kFar);
    p.w[j] = x_c + half;
    if (!l.gradients) continue;
    p.hb[j] = beta * h;
    p.delta[j] = beta * x_g + beta * h * (C(dim + 1) - half);
  }
}

}  // namespace svgdx::SVGDX_ISA
