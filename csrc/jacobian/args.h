// The Jacobian ops: the arguments that the host layer passes to a backend, and the functions that each backend
// provides. Notation and arrays as in field/args.h.
#pragma once

#include <cstdint>

#include "common/per_batch.h"

namespace svgdx {

// J_i = A_i + H_i / M with A_i = (beta/M) [ (sum_{j != i} kappa_ij) I - sum_j kappa_ij z_ij r_ij^T ].
template <class T>
struct JacobianArgs {
  int64_t batch = 0, particles = 0, dim = 0;
  const T* x = nullptr;
  const T* score = nullptr;
  PerBatch<T> bandwidth = {};
  // sqnorm: |A|_F^2 + (2/M) (A probe) . hvp + |hvp|^2 / M^2 without step.
  const T* probe = nullptr;  // (batch, particles, dim) or null
  const T* hvp = nullptr;    // (batch, particles, dim) or null
  // logdet: log |det(I + step J)| with step; dim <= 16.
  PerBatch<T> step = {};
  const T* hessian = nullptr;  // (batch, particles, dim, dim) or null
  T* out = nullptr;            // (batch, particles)
};

template <class T>
struct JacobianGradArgs {
  JacobianArgs<T> forward = {};  // out unused
  const T* grad_out = nullptr;   // (batch, particles)
  T* adjoint = nullptr;          // scratch (batch, particles, dim, dim): dL/dA_i
  T* grad_x = nullptr;
  T* grad_score = nullptr;
  // (batch, particles): -2 <dL/dA_i, A_i> - x.grad_x + score.grad_score; sums to sigma dL/dsigma.
  T* euler = nullptr;
  T* grad_probe = nullptr;    // or null
  T* grad_hvp = nullptr;      // or null
  T* grad_step = nullptr;     // (batch, particles), the row's share; or null
  T* grad_hessian = nullptr;  // (batch, particles, dim, dim) or null
};

}  // namespace svgdx

namespace svgdx::SVGDX_BACKEND {

// Each backend defines these for float and double and dim <= 16; `stream` is a cudaStream_t, or null on the CPU.
template <class T>
void jacobian_forward(const JacobianArgs<T>& args, void* stream);
template <class T>
void jacobian_backward(const JacobianGradArgs<T>& args, void* stream);

}  // namespace svgdx::SVGDX_BACKEND
