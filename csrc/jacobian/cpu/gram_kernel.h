// The float64 passes of the Gram route (jacobian/gram.h) between its matrix products. The result of a work item
// does not depend on how the items are distributed over threads.
#pragma once

#include <cstdint>

#include "common/isa.h"

namespace svgdx {

constexpr int64_t kGramColumns = 256;
// Dots per particle: x.h, v.h and h.h.
constexpr int64_t kGramDots = 3;

// The pass over the particles themselves, see gram::Rows. If probe and hvp are null, their copies and dots are not
// written.
template <class T>
struct GramRows {
  int64_t batch, particles, dim;
  const T *x, *score, *probe, *hvp;             // (batch, M, D)
  const double* beta;                           // (batch)
  double *x_out, *c_out, *probe_out, *hvp_out;  // (batch, M, D)
  double* dots;                                 // (batch, blocks, M, kGramDots), the share of each block

  int64_t blocks() const { return (dim + kGramColumns - 1) / kGramColumns; }
};

// Sums over j of kappa_ij and of kappa_ij times rho, a, b, a b and p q, in this order.
constexpr int64_t kGramSums = 6;

// The passes over (M, M) matrices before and after the products with K. Arrays are (batch, M, M) unless noted.
struct GramPairs {
  int64_t batch, particles, dim;
  const double* beta;          // (batch)
  const double *g, *f, *u;     // X X^T, C C^T, X C^T
  const double *hc, *vx;       // H C^T, V X^T; null without probe
  const double* dots;          // (batch, M, kGramDots); null without probe
  double *kernel, *fg;         // K with a diagonal of 0, F o G
  double* sums;                // (batch, M, kGramSums)
  const double *kf, *kg, *ke;  // K F, K G, K (F o G)
  double* out;                 // (batch, M)
};

}  // namespace svgdx

// Each processes the items [begin, end): batch row * blocks + block of columns in gram_rows, batch row * M + particle
// in the others.
SVGDX_ISA_DECLARE(template <class T> void gram_rows(const GramRows<T>& args, int64_t begin, int64_t end);
                  void gram_kernel(const GramPairs& args, int64_t begin, int64_t end);
                  void gram_finish(const GramPairs& args, int64_t begin, int64_t end);)
