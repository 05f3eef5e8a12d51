// The log density f(tanh u) / alpha + sum_d log(1 - tanh^2 u_d) at N points u, with its score and products with its
// Hessian: the passes before and after the sweeps through f. All arrays are contiguous; C is float or double.
//
// With a = tanh u, s = 1 - a^2, q the gradient of f at a, w = s v and p = H w: the score is s q / alpha - 2 a, the
// product with the Hessian s p / alpha + b v, b = -2 s (a q / alpha + 1), and v times it, for signs v, w.p / alpha +
// sum_d b.
#pragma once

#include <cstdint>

namespace svgdx::cuda {

template <class C>
struct TanhTarget {
  int64_t rows, dim;
  int orders;            // derivatives of q along w in `gradients`: 0 without probe, otherwise 1 or 2
  const C* u;            // (N, D)
  const C* probe;        // (N, D): v; or null
  const C* temperature;  // (1): alpha
  C* points;             // (N, D): a; with probe then (N, D): w
  const C* output;       // (2 N): the values of two networks, of which f is the smaller; NaN counts as the smaller
  const C* gradients;    // (2, 1 + orders, N, D): their gradients at a, p, and the gradient of w . H w
  C* log_prob;           // (N)
  C* score;              // (N, D)
  C* trace;              // (N); null without probe
  C* hvp;                // (N, D); null without probe
  // For the gradient alone, otherwise null: which network is the smaller, 0 for the first and ~0 for the second, (N),
  // and (N, D) each q, p and the gradient of w . H w, the last two null without probe.
  int32_t* order;
  C *gradient, *product, *third;
};

// Upstream gradients may be null. The gradient in q goes through the sweeps, which return its product with H; so does
// that of the form w . H w in a, `third`.
template <class C>
struct TanhTargetGrad {
  int64_t rows, dim;
  const C *u, *probe, *temperature, *gradient, *product, *third;  // as above; third (N, D)
  const C *grad_log_prob, *grad_score, *grad_trace;               // (N), (N, D), (N)
  C* grad_gradient;                                               // (N, D)
  const C* grad_product;                                          // (N, D): H times that; null for zero
  C* grad_u;                                                      // (N, D)
};

template <class C>
void tanh_target_begin(const TanhTarget<C>& args, void* stream);
template <class C>
void tanh_target_end(const TanhTarget<C>& args, void* stream);
template <class C>
void tanh_target_back_begin(const TanhTargetGrad<C>& args, void* stream);
template <class C>
void tanh_target_back_end(const TanhTargetGrad<C>& args, void* stream);

}  // namespace svgdx::cuda
