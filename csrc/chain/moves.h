// Metropolis-Hastings in a chain: the arguments that the host layer passes to a backend, and the functions that each
// backend provides. Mathematics in chain/moved.h. All arrays are contiguous; T is float or double.
#pragma once

#include <cstdint>

#include "common/per_batch.h"

namespace svgdx {

// The direction and the trace of each particle if it alone is moved to its query point.
template <class T>
struct MovedArgs {
  int64_t batch, particles, dim;
  const T *query, *x, *score;  // (batch, particles, dim)
  const T* query_score;        // (batch, particles, dim): the score at the query points; null for zero
  PerBatch<T> bandwidth;
  T* phi;    // (batch, particles, dim): the field at the query points, which the call completes
  T* trace;  // (batch, particles): its divergence, likewise; null if not requested
};

// One iteration y <- x - eps phi(y) of the inverse map, at y = query; phi is not written.
template <class T>
struct InverseArgs {
  MovedArgs<T> moved;
  PerBatch<T> step;
  PerBatch<T> limit;        // the error at which a problem's particles have converged
  const T* error;           // (batch, particles, dim): before this iteration; null in the first one
  const int32_t* was_open;  // whether a particle had not converged before: if none, nothing changes; null in the first
  int32_t* is_open;         // set if a particle has not converged now
  T *next, *next_error;     // (batch, particles, dim)
};

// The decisions of N particles in D dimensions.
template <class T>
struct AcceptArgs {
  int64_t rows, dim;
  const T *x, *ahead, *back;                                    // (rows, dim): where they are, and the proposals
  const T *here, *log_p_ahead, *log_p_back, *gain, *gain_back;  // (rows)
  const bool *can_ahead, *can_back;                             // (rows): whether a proposal is possible
  const T *toss, *chance;                                       // (rows): uniform numbers
  T* next;                                                      // (rows, dim)
  T* change;                                                    // (rows): of log q
  bool* accepted;                                               // (rows)
};

template <class T>
struct AcceptGradArgs {
  AcceptArgs<T> forward;             // without outputs
  const T *grad_next, *grad_change;  // (rows, dim), (rows); null for zero
  T *grad_x, *grad_ahead, *grad_back;
  T *grad_here, *grad_log_p_ahead, *grad_log_p_back, *grad_gain, *grad_gain_back;
};

}  // namespace svgdx

namespace svgdx::SVGDX_BACKEND {

template <class T>
void chain_moved(const MovedArgs<T>& args, void* stream);
template <class T>
void chain_inverse(const InverseArgs<T>& args, void* stream);
template <class T>
void chain_accept(const AcceptArgs<T>& args, void* stream);
template <class T>
void chain_accept_backward(const AcceptGradArgs<T>& args, void* stream);

}  // namespace svgdx::SVGDX_BACKEND
