// The passes of the Gram route (jacobian/gram.h) on CUDA, between its two products. Everything but the inputs and the
// result is float64, because the expansion cancels if particles are many sigma apart. The particles' vectors are
// stacked in `kinds` blocks of M rows, X centred and C, then H and V if there is a probe.
#pragma once

#include <cstdint>

#include "common/per_batch.h"

namespace svgdx::cuda {

template <class T>
struct GramInputs {
  int64_t batch, particles, dim;
  const T *x, *score, *probe, *hvp;  // (batch, M, D); probe and hvp may be null
  PerBatch<T> bandwidth;
  double* rows;  // (batch, kinds M, D)
};

// Sums over j of kappa_ij and of kappa_ij times rho, a, b, a b and p q, in this order.
constexpr int kGramSums = 6;
// Dots of each particle beside |x|^2 and x.c: x.h, v.x, v.h and h.h.
constexpr int kGramDots = 4;

template <class T>
struct GramPairs {
  int64_t batch, particles, dim;
  int kinds;  // 2, or 4 with a probe
  PerBatch<T> bandwidth;
  const double* rows;      // (batch, kinds M, D)
  const double* products;  // (batch, kinds M, 2 M): rows times the transpose of X and C
  double* squares;         // (batch, M): |x|^2
  double* crosses;         // (batch, M): x.c
  double* dots;            // (batch, M, kGramDots); null without probe
  double* kernel;          // (batch, M, M): K, with a diagonal of 0
  double* factors;         // (batch, M, 3 M): F, G and F o G
  double* sums;            // (batch, M, kGramSums)
  const double* mixed;     // (batch, M, 3 M): K F, K G and K (F o G)
  T* out;                  // (batch, M): |J_i|_F^2
};

template <class T>
void gram_rows(const GramInputs<T>& args, void* stream);
// Three passes: the particles' dots; K with its sums, and the factors of the second product; the result.
template <class T>
void gram_dots(const GramPairs<T>& args, void* stream);
template <class T>
void gram_kernel(const GramPairs<T>& args, void* stream);
template <class T>
void gram_finish(const GramPairs<T>& args, void* stream);

}  // namespace svgdx::cuda
