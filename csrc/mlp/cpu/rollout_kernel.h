// The passes over rows between the matrix products of an MLP policy, for one SIMD level. S is the storage type of the
// activations and logits, Compute<S> that of the first layer's argument, of biases and of sums.
#pragma once

#include <cstdint>

#include "common/half.h"
#include "common/isa.h"

namespace svgdx {

// Adds factor times one column of the weight to each row's argument of the first layer, then applies the activation.
template <class S>
struct MlpFirstLayer {
  int64_t rows, width;
  Compute<S>* argument;       // (rows, width)
  const Compute<S>* columns;  // (D, width)
  const int64_t* location;    // (rows), the column to add; null adds nothing
  const Compute<S>* factor;   // (rows)
  Compute<S> slope;           // the activation's slope below zero
  S* out;                     // (rows, width)
};

// Gathers the states of rows of the V * B, ordered by visit, and the gradients of their logits.
template <class S>
struct MlpGather {
  int64_t first, rows, batch, split, visits, dim;
  const S* grad_logits;  // (B, V, 3D) by time: in visit v, forward rows (b < split) are at time v, others at V - 1 - v
  const int32_t* set_time;  // (B, D)
  const int8_t* final;      // (B, D)
  S* grads;                 // (rows, 3D)
  S* states;                // (rows, D)
};

}  // namespace svgdx

SVGDX_ISA_DECLARE(template <class S> void mlp_first_layer(const MlpFirstLayer<S>& args);
                  // Multiplies grad by the derivative of the activation, computed from the activation's result.
                  template <class S>
                  void mlp_activate_backward(int64_t count, const S* result, Compute<S> slope, S* grad);
                  template <class S> void mlp_gather(const MlpGather<S>& args);
                  // Adds values (rows, width) to sums, row by row.
                  template <class S> void mlp_add_rows(int64_t rows, int64_t width, const S* values, Compute<S>* sums);)
