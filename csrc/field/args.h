// The field ops: the arguments that the host layer passes to a backend, and the functions that each backend provides.
//
// Notation (Liu & Wang 2016; Messaoud et al. 2024, 2026): particles x_j with scores s_j = grad log p(x_j), bandwidth
// sigma, beta = 1 / sigma^2, r_ij = x_i - x_j, kappa_ij = exp(-beta |r_ij|^2 / 2), z_ij = s_j + beta r_ij. Then
//   phi_i = (1/M) sum_j kappa_ij z_ij,   t_i = (beta/M) sum_{j != i} kappa_ij (D - r_ij . z_ij).
// Every array is contiguous, row-major and of the compute type T (float or double); sizes are 64-bit. Arrays with a
// last dimension of `dim` may have a 16-bit `format` instead, if the backend reads it (storage.h): their pointers then
// point to such numbers.
#pragma once

#include <cstdint>

#include "common/format.h"
#include "common/row_sum.h"

namespace svgdx {

// The field is evaluated at the rows; the columns are the M particles.
struct FieldShape {
  int64_t batch, rows, cols, dim;
};

// Forward of svgd_phi, svgd_phi_trace, svgd_step, svgd_field and ksd.
template <class T>
struct FieldArgs {
  FieldShape shape = {};
  const T* query = nullptr;  // (batch, rows, dim); x itself if `self`
  const T* x = nullptr;      // (batch, cols, dim)
  const T* score = nullptr;  // (batch, cols, dim)
  PerBatch<T> bandwidth = {};
  bool self = false;   // rows are the particles: the trace leaves out j = i
  T* phi = nullptr;    // (batch, rows, dim), or with `step`: x + step * phi; null if not requested
  T* trace = nullptr;  // (batch, rows), or with `step`: log_q - step * (t + hessian_trace / M); null if not requested
  T* stein =
      nullptr;  // (batch, rows): score_i . phi_i + t_i, the Stein identity summand; needs self; null if not requested
  bool stein_diagonal = false;       // stein counts j = i (V-statistic)
  PerBatch<T> step = {};             // empty if there is no update
  const T* log_q = nullptr;          // (batch, rows), with step
  const T* hessian_trace = nullptr;  // (batch, rows) or null, with step
  Format format = Format::kFloat;    // of query, x, score and phi
  bool tf32 = false;                 // products on tensor cores may be in TF32
};

// Backward of the same. Each row gathers from all columns, both as a query (its own upstream gradient with the columns'
// scores) and as a particle (its own score with the columns' upstream gradients), so nothing is scattered. A null array
// means zeros. With a step (svgd_step), the upstream gradients are g = step * grad_phi and h = -step * grad_trace, and
// grad_x also receives grad_phi itself (x' = x + ...).
template <class T>
struct FieldGradArgs {
  FieldShape shape = {};
  int64_t particles = 0;  // M, the divisor
  bool self = false;      // rows and columns are the same particles
  const T* row_x = nullptr;
  const T* row_score = nullptr;
  const T* row_grad_phi = nullptr;    // (batch, rows, dim)
  const T* row_grad_trace = nullptr;  // (batch, rows)
  const T* col_x = nullptr;
  const T* col_score = nullptr;
  const T* col_grad_phi = nullptr;
  const T* col_grad_trace = nullptr;
  PerBatch<T> bandwidth = {};
  PerBatch<T> step = {};
  const T* hessian_trace = nullptr;  // (batch, rows) or null; used by `dot` only
  T* grad_x = nullptr;               // (batch, rows, dim)
  T* grad_score = nullptr;           // (batch, rows, dim); null if not requested
  // (batch, rows): numbers whose sum, over both calls if rows and columns differ, is sigma * dL/dsigma. Null if not
  // requested.
  SVGDX_BACKEND::RowShare<T>* grad_log_sigma = nullptr;
  // (batch, rows): numbers whose sum is dL/dstep, that of grad_phi.phi - grad_trace (t + hessian_trace / M); needs
  // `self`. Null if not requested.
  T* dot = nullptr;
  Format format = Format::kFloat;  // of x, the scores, grad_phi, grad_x and grad_score
  bool tf32 = false;               // products on tensor cores may be in TF32
};

}  // namespace svgdx

namespace svgdx::SVGDX_BACKEND {

// Each backend defines these for float and double. `scratch` points to as many bytes of device memory as the matching
// *_scratch function returns (possibly zero); `stream` is a cudaStream_t, or null on the CPU.
template <class T>
int64_t field_forward_scratch(const FieldArgs<T>& args);
template <class T>
void field_forward(const FieldArgs<T>& args, void* scratch, void* stream);
template <class T>
int64_t field_backward_scratch(const FieldGradArgs<T>& args);
template <class T>
void field_backward(const FieldGradArgs<T>& args, void* scratch, void* stream);

}  // namespace svgdx::SVGDX_BACKEND
