// Random numbers, and the sampling ops of GFlowNets: the arguments that the host layer passes to a backend, and the
// functions that each backend provides. States, actions and logits as in trajectory/args.h.
#pragma once

#include <cstdint>

#include "common/half.h"
#include "common/philox.h"

namespace svgdx {

// Uniform or normal numbers: number i depends only on the key and i (draw/numbers.h).
template <class S>
struct NumberArgs {
  int64_t count;
  PhiloxKey key;
  S* out;  // (count)
};

// Integers in [0, bound), for 0 < bound <= 2^32.
struct IntegerArgs {
  int64_t count;
  PhiloxKey key;
  uint64_t bound;
  int64_t* out;  // (count)
};

// Draws one action for each of B states, using integers (draw/weights.h), so that every backend draws the same.
template <class S>
struct SampleArgs {
  int64_t batch, dim;
  const S* logits;      // (B, 3D)
  const int8_t* state;  // (B, D)
  bool forward;         // draw from P_F, otherwise from P_B
  PhiloxKey key;
  float scale;  // log2(e) / temperature
  float epsilon;
  int64_t* action;       // (B): forward 2 location + bit, backward location; -1 if the row has no valid draw
  Compute<S>* log_prob;  // (B), of the untempered policy; NaN for action -1; on the CPU null if not requested
  int8_t* next_state;    // (B, D); the state itself for action -1
};

}  // namespace svgdx

namespace svgdx::SVGDX_BACKEND {

template <class S>
void uniform(const NumberArgs<S>& args, void* stream);
template <class S>
void normal(const NumberArgs<S>& args, void* stream);
void integers(const IntegerArgs& args, void* stream);
template <class S>
void gfn_sample(const SampleArgs<S>& args, void* stream);

}  // namespace svgdx::SVGDX_BACKEND
