// The passes over rows between the matrix products of an MLP policy, for one SIMD level. S is the storage type of the
// activations and logits, Compute<S> that of the first layer's argument, of biases and of sums.
#pragma once

#include <cstdint>

#include "common/half.h"
#include "common/isa.h"

namespace svgdx {

// Each row's argument of the first layer moves by factor times one column of the weight, then out = activation of it.
template <class S>
struct MlpFirstLayer {
  int64_t rows, width;
  Compute<S>* argument;       // (rows, width)
  const Compute<S>* columns;  // (D, width)
  const int64_t* location;    // (rows), which column; null: nothing has moved
  const Compute<S>* factor;   // (rows)
  Compute<S> slope;           // of the activation below zero
  S* out;                     // (rows, width)
};

// The states of some rows of V * B, ordered by visit, and the gradients of their logits, brought together.
template <class S>
struct MlpGather {
  int64_t first, rows, batch, split, visits, dim;
  const S* grad_logits;  // (B, V, 3D) by time; forward rows, b < split, are at time v in visit v, others at V - 1 - v
  const int32_t* set_time;  // (B, D)
  const int8_t* final;      // (B, D)
  S* grads;                 // (rows, 3D)
  S* states;                // (rows, D)
};

}  // namespace svgdx

SVGDX_ISA_DECLARE(template <class S> void mlp_first_layer(const MlpFirstLayer<S>& args);
                  // out = activation of in + bias, (rows, width).
                  template <class S> void mlp_activate(int64_t rows, int64_t width, const S* in, const Compute<S>* bias,
                                                       Compute<S> slope, S* out);
                  template <class S> void mlp_add_bias(int64_t rows, int64_t width, const Compute<S>* bias, S* values);
                  // grad times the derivative of the activation, which its result tells.
                  template <class S>
                  void mlp_activate_backward(int64_t count, const S* result, Compute<S> slope, S* grad);
                  template <class S> void mlp_gather(const MlpGather<S>& args);
                  // sums += the sums over rows of values (rows, width); row by row.
                  template <class S> void mlp_add_rows(int64_t rows, int64_t width, const S* values, Compute<S>* sums);)
