// The family's ops and the functions that implement them, listed once for both backends.
#pragma once

#include "trace/host.h"
#include "trace/mlp_host.h"

// Gives struct `name` the backend functions of namespace `ns` as static members.
#define SVGDX_TRACE_BACKEND_MEMBERS(ns)                                               \
  template <class S>                                                                  \
  static void rademacher(const SignArgs<S>& args, void* stream) {                     \
    ns::rademacher(args, stream);                                                     \
  }                                                                                   \
  template <class S>                                                                  \
  static void probe_trace(const ProbeTraceArgs<S>& args, void* stream) {              \
    ns::probe_trace(args, stream);                                                    \
  }                                                                                   \
  template <class S>                                                                  \
  static void probe_trace_backward(const ProbeTraceGradArgs<S>& args, void* stream) { \
    ns::probe_trace_backward(args, stream);                                           \
  }                                                                                   \
  template <class C>                                                                  \
  static void mlp_forward(const MlpForward<C>& args, void* stream) {                  \
    ns::mlp_forward(args, stream);                                                    \
  }                                                                                   \
  template <class C>                                                                  \
  static void mlp_reverse(const MlpReverse<C>& args, void* stream) {                  \
    ns::mlp_reverse(args, stream);                                                    \
  }                                                                                   \
  template <class C>                                                                  \
  static void mlp_laplacian(const MlpLaplacian<C>& args, void* stream) {              \
    ns::mlp_laplacian(args, stream);                                                  \
  }

#define SVGDX_TRACE_IMPLS(m, Backend)                                                           \
  m.impl("rademacher", TORCH_BOX(&::svgdx::TraceOps<Backend>::rademacher));                     \
  m.impl("probe_trace", TORCH_BOX(&::svgdx::TraceOps<Backend>::probe_trace));                   \
  m.impl("probe_trace_backward", TORCH_BOX(&::svgdx::TraceOps<Backend>::probe_trace_backward)); \
  m.impl("mlp_score_hvp", TORCH_BOX(&::svgdx::MlpJetOps<Backend>::score_hvp));                  \
  m.impl("mlp_laplacian", TORCH_BOX(&::svgdx::MlpJetOps<Backend>::laplacian));
