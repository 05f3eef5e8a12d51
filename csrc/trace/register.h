// One list of the family's ops and the functions behind them, for both backends.
#pragma once

#include "trace/host.h"

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
  }

#define SVGDX_TRACE_IMPLS(m, Backend)                                         \
  m.impl("rademacher", TORCH_BOX(&::svgdx::TraceOps<Backend>::rademacher));   \
  m.impl("probe_trace", TORCH_BOX(&::svgdx::TraceOps<Backend>::probe_trace)); \
  m.impl("probe_trace_backward", TORCH_BOX(&::svgdx::TraceOps<Backend>::probe_trace_backward));
