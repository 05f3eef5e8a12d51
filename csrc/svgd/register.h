// The family's ops and the functions that implement them, listed once for both backends.
#pragma once

#include "svgd/host_discrepancy.h"
#include "svgd/host_jacobian.h"

// Gives struct `name` the backend functions of namespace `ns` as static members.
#define SVGDX_SVGD_BACKEND_MEMBERS(ns)                                                                             \
  template <class T>                                                                                               \
  static int64_t field_forward_scratch(const FieldArgs<T>& args) {                                                 \
    return ns::field_forward_scratch(args);                                                                        \
  }                                                                                                                \
  template <class T>                                                                                               \
  static void field_forward(const FieldArgs<T>& args, void* scratch, void* stream) {                               \
    ns::field_forward(args, scratch, stream);                                                                      \
  }                                                                                                                \
  template <class T>                                                                                               \
  static int64_t field_backward_scratch(const FieldGradArgs<T>& args) {                                            \
    return ns::field_backward_scratch(args);                                                                       \
  }                                                                                                                \
  template <class T>                                                                                               \
  static void field_backward(const FieldGradArgs<T>& args, void* scratch, void* stream) {                          \
    ns::field_backward(args, scratch, stream);                                                                     \
  }                                                                                                                \
  template <class T>                                                                                               \
  static void jacobian_forward(const JacobianArgs<T>& args, void* stream) {                                        \
    ns::jacobian_forward(args, stream);                                                                            \
  }                                                                                                                \
  template <class T>                                                                                               \
  static void jacobian_backward(const JacobianGradArgs<T>& args, void* stream) {                                   \
    ns::jacobian_backward(args, stream);                                                                           \
  }                                                                                                                \
  static int64_t median_distance_scratch(int64_t batch, int64_t particles, int64_t dim) {                          \
    return ns::median_distance_scratch(batch, particles, dim);                                                     \
  }                                                                                                                \
  template <class T>                                                                                               \
  static void median_distance(int64_t batch, int64_t particles, int64_t dim, const T* x, T* out, void* scratch,    \
                              void* stream) {                                                                      \
    ns::median_distance(batch, particles, dim, x, out, scratch, stream);                                           \
  }                                                                                                                \
  template <class T>                                                                                               \
  static void row_sum(int64_t batch, int64_t n, const T* in, T scale, PerBatch<T> divisor, T* out, void* stream) { \
    ns::row_sum(batch, n, in, scale, divisor, out, stream);                                                        \
  }

#define SVGDX_SVGD_IMPLS(m, Backend)                                                                                 \
  m.impl("svgd_phi", TORCH_BOX(&::svgdx::SvgdOps<Backend>::svgd_phi));                                               \
  m.impl("svgd_phi_trace", TORCH_BOX(&::svgdx::SvgdOps<Backend>::svgd_phi_trace));                                   \
  m.impl("svgd_phi_trace_backward", TORCH_BOX(&::svgdx::SvgdOps<Backend>::svgd_phi_trace_backward));                 \
  m.impl("svgd_step", TORCH_BOX(&::svgdx::SvgdOps<Backend>::svgd_step));                                             \
  m.impl("svgd_step_backward", TORCH_BOX(&::svgdx::SvgdOps<Backend>::svgd_step_backward));                           \
  m.impl("svgd_field", TORCH_BOX(&::svgdx::SvgdOps<Backend>::svgd_field));                                           \
  m.impl("svgd_field_backward", TORCH_BOX(&::svgdx::SvgdOps<Backend>::svgd_field_backward));                         \
  m.impl("svgd_jacobian_sqnorm", TORCH_BOX(&::svgdx::JacobianOps<Backend>::svgd_jacobian_sqnorm));                   \
  m.impl("svgd_jacobian_sqnorm_backward", TORCH_BOX(&::svgdx::JacobianOps<Backend>::svgd_jacobian_sqnorm_backward)); \
  m.impl("svgd_logdet", TORCH_BOX(&::svgdx::JacobianOps<Backend>::svgd_logdet));                                     \
  m.impl("svgd_logdet_backward", TORCH_BOX(&::svgdx::JacobianOps<Backend>::svgd_logdet_backward));                   \
  m.impl("ksd", TORCH_BOX(&::svgdx::DiscrepancyOps<Backend>::ksd));                                                  \
  m.impl("ksd_backward", TORCH_BOX(&::svgdx::DiscrepancyOps<Backend>::ksd_backward));                                \
  m.impl("median_distance", TORCH_BOX(&::svgdx::DiscrepancyOps<Backend>::median_distance));
