// The small steps between the ops of an SVGD chain: the arguments that the host layer passes to a backend, and the
// functions that each backend provides. All arrays are contiguous; T is float or double.
#pragma once

#include <cstdint>

#include "common/per_batch.h"

namespace svgdx {

// The limit of each problem's step size and the step size held under it, see chain/step.h.
template <class T>
struct BoundArgs {
  int64_t batch, particles;
  const T* sqnorm;   // (batch, particles): |J_i|_F^2
  PerBatch<T> step;  // eps
  T slope;           // of a step size past its limit
  T* limit;          // (batch)
  T* bounded;        // (batch)
};

template <class T>
struct BoundGradArgs {
  int64_t batch;
  PerBatch<T> step;
  T slope;
  const T* limit;  // (batch)
  const T* grad;   // (batch): of `bounded`
  T* grad_step;    // (batch), or their sum (1) if step is one for all
};

// Learnt numbers between bounds, from their parameters.
template <class T>
struct LearntArgs {
  int64_t count;
  const T* raw;
  T low, width;   // log of the lower bound, and of the ratio of both
  const T* grad;  // of the values, for the backward pass; otherwise null
  T* out;         // values, or the gradient of raw
};

}  // namespace svgdx

namespace svgdx::SVGDX_BACKEND {

template <class T>
void chain_bound(const BoundArgs<T>& args, void* stream);
template <class T>
void chain_bound_backward(const BoundGradArgs<T>& args, void* stream);
template <class T>
void chain_learnt(const LearntArgs<T>& args, void* stream);

}  // namespace svgdx::SVGDX_BACKEND
