// The passes over rows between the matrix products of an MLP policy's rollout and of its gradient. S is float or
// double; all arrays are contiguous.
#pragma once

#include <cstdint>

#include "draw/args.h"

namespace svgdx::cuda {

// One visit of all rows, of which the first `split` go forward: completes the logits, draws each row's move, and
// computes the first layer at the state that it leads to. Without a product it computes the first layer alone.
template <class S>
struct RolloutVisit {
  int64_t batch, split, dim, width;
  // Logits: product + bias, copied to one of `times` slots of the record.
  const S* product;  // (B, 3D) or null
  const S* bias;     // (3D)
  S* logits;         // (B, 3D)
  S* record;         // (B, times, 3D) or null
  int64_t times, forward_time, backward_time;
  // Moves, as in draw/args.h.
  bool draws;
  const int8_t* state;  // (B, D)
  PhiloxKey forward, backward;
  float forward_scale, backward_scale, forward_epsilon, backward_epsilon;
  int64_t* action;     // (B)
  S* log_prob;         // (B)
  int8_t* next_state;  // (B, D)
  int64_t* actions;    // (B, steps): 2 location + bit; -1 for a row without a valid draw
  int64_t steps, forward_step, backward_step;
  // The first layer: the argument moves by the column of the location that changes.
  S* argument;       // (B, width)
  const S* columns;  // (D, width)
  S slope;           // the activation's slope below zero
  S* hidden;         // (B, width); null if not requested
};

// out = activation(in + bias), (rows, width).
template <class S>
struct RolloutActivate {
  int64_t rows, width;
  const S* in;
  const S* bias;
  S slope;
  S* out;
};

// Gathers the states of rows [first, first + rows) of the V * B, ordered by visit, and the gradients of their logits.
template <class S>
struct RolloutGather {
  int64_t first, rows, batch, split, visits, dim;
  const S* grad_logits;  // (B, V, 3D) by time: in visit v, forward rows (b < split) are at time v, others at V - 1 - v
  const int32_t* set_time;  // (B, D)
  const int8_t* final;      // (B, D)
  S* grads;                 // (rows, 3D)
  S* states;                // (rows, D)
};

template <class S>
void rollout_visit(const RolloutVisit<S>& args, void* stream);
template <class S>
void rollout_activate(const RolloutActivate<S>& args, void* stream);
template <class S>
void rollout_gather(const RolloutGather<S>& args, void* stream);
// Multiplies grad by the derivative of the activation, computed from the activation's result.
template <class S>
void rollout_activate_backward(int64_t count, const S* result, S slope, S* grad, void* stream);

}  // namespace svgdx::cuda
