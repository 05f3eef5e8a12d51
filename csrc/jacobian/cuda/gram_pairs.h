// The passes of the Gram route (jacobian/gram.h) on CUDA, between its two products. Everything but the inputs and the
// result is float64, because the expansion cancels if particles are many sigma apart. The particles' vectors are
// stacked in `kinds` blocks of M rows: X centred and C; or V, X, C and H if there is a probe.
#pragma once

#include <cstdint>

#include "common/hd.h"
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

// Blocks of M columns of the factors: F, G and F o G; for the gradient also w' K, 2 w' (K o b) and 2 w' (K o a), in
// which w'_i = weight_i beta^2 / M^2 multiplies row i.
constexpr int kGramForward = 3, kGramBackward = 6;

template <class T>
struct GramPairs {
  int64_t batch, particles, dim;
  int kinds;  // 2, or 4 with a probe
  PerBatch<T> bandwidth;
  const T* weight;         // (batch, M): dL/d|J_i|_F^2; null in the forward pass
  const double* rows;      // (batch, kinds M, D)
  const double* products;  // (batch, kinds M, 2 M): rows times the transpose of X and C
  double* squares;         // (batch, M): |x|^2
  double* crosses;         // (batch, M): x.c
  double* dots;            // (batch, M, kGramDots); null without probe
  double* kernel;          // (batch, M, M): K, with a diagonal of 0
  double* factors;         // (batch, M, blocks() M)
  double* sums;            // (batch, M, kGramSums)
  const double* mixed;     // (batch, M, blocks() M): K times the factors
  T* out;                  // (batch, M): |J_i|_F^2; null if there is a weight

  SVGDX_HD int blocks() const { return weight == nullptr ? kGramForward : kGramBackward; }
  // The block of rows in which X stands, with C behind it.
  SVGDX_HD int first() const { return kinds == 4 ? 1 : 0; }
};

// Numbers of each particle that its gradients need beside the products, see gram_adjoint_kernel.
constexpr int kGramOwn = 6;

// The gradient of sum_i weight_i |J_i|_F^2. Up to terms of a particle alone, that of the stacked rows is a symmetric
// matrix times these rows: [V^, X^, C^, H^] = [. VX . .; XV XX XC .; . CX CC CH; . . HC .] [V; X; C; H].
template <class T>
struct GramGrads {
  GramPairs<T> pairs;
  const double* inner;  // (batch, M, M): 2 w' ((K o b) F + (K o a) G)
  double* adjoint;      // (batch, M, 6 M): XV, XX, XC, CX, CC and CH; or XX, XC, CX, CC and two of no meaning
  double* own;          // (batch, M, kGramOwn)
  const double* parts;  // (kinds, batch, M, D): V^, X^, C^ and H^, or X^ and C^
  T *grad_x, *grad_score, *grad_probe, *grad_hvp;  // (batch, M, D); the last two are null without probe
  double* euler;                                   // (batch, M): they sum to sigma dL/dsigma

  // Blocks of M columns that belong to X^, and to C^.
  SVGDX_HD int sides() const { return pairs.kinds == 4 ? 3 : 2; }
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
// Two passes of the gradient after those products: `adjoint` and `own`, and the result.
template <class T>
void gram_adjoint(const GramGrads<T>& args, void* stream);
template <class T>
void gram_gradients(const GramGrads<T>& args, void* stream);

}  // namespace svgdx::cuda
