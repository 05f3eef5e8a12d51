// The family's ops and the functions that implement them, listed once for both backends.
#pragma once

#include "gfn/host_linear.h"

// Gives struct `name` the backend functions of namespace `ns` as static members.
#define SVGDX_GFN_BACKEND_MEMBERS(ns)                                                                                  \
  static void trajectory_set_times(const SetTimeArgs& args, void* stream) { ns::trajectory_set_times(args, stream); }  \
  template <class S>                                                                                                   \
  static void trajectory_rows(const TrajectoryRows<S>& args, void* stream) {                                           \
    ns::trajectory_rows(args, stream);                                                                                 \
  }                                                                                                                    \
  template <class S>                                                                                                   \
  static void trajectory_rows_backward(const TrajectoryRowsGrad<S>& args, void* stream) {                              \
    ns::trajectory_rows_backward(args, stream);                                                                        \
  }                                                                                                                    \
  template <class C>                                                                                                   \
  static void trajectory_sum(const TrajectoryShape& shape, const C* rows, C* log_pf, C* log_pb, void* stream) {        \
    ns::trajectory_sum(shape, rows, log_pf, log_pb, stream);                                                           \
  }                                                                                                                    \
  template <class S>                                                                                                   \
  static void gfn_sample(const SampleArgs<S>& args, void* stream) {                                                    \
    ns::gfn_sample(args, stream);                                                                                      \
  }                                                                                                                    \
  template <class S>                                                                                                   \
  static void masked_rows(const MaskedRows<S>& args, void* stream) {                                                   \
    ns::masked_rows(args, stream);                                                                                     \
  }                                                                                                                    \
  template <class S>                                                                                                   \
  static void masked_rows_backward(const MaskedRowsGrad<S>& args, void* stream) {                                      \
    ns::masked_rows_backward(args, stream);                                                                            \
  }                                                                                                                    \
  template <class C>                                                                                                   \
  static void segment_sum(int64_t segments, int64_t rows, const int64_t* offsets, const C* in, C* out, void* stream) { \
    ns::segment_sum(segments, rows, offsets, in, out, stream);                                                         \
  }

#define SVGDX_GFN_IMPLS(m, Backend)                                                                        \
  m.impl("gfn_trajectory_log_prob_forward", TORCH_BOX(&::svgdx::GfnOps<Backend>::trajectory));             \
  m.impl("gfn_trajectory_log_prob_backward", TORCH_BOX(&::svgdx::GfnOps<Backend>::trajectory_backward));   \
  m.impl("linear_trajectory_log_prob_forward", TORCH_BOX(&::svgdx::LinearOps<Backend>::linear));           \
  m.impl("linear_trajectory_log_prob_backward", TORCH_BOX(&::svgdx::LinearOps<Backend>::linear_backward)); \
  m.impl("masked_trajectory_log_prob_forward", TORCH_BOX(&::svgdx::GfnOps<Backend>::masked));              \
  m.impl("masked_trajectory_log_prob_backward", TORCH_BOX(&::svgdx::GfnOps<Backend>::masked_backward));    \
  m.impl("gfn_sample_forward", TORCH_BOX(&::svgdx::GfnOps<Backend>::sample_forward));                      \
  m.impl("gfn_sample_backward", TORCH_BOX(&::svgdx::GfnOps<Backend>::sample_backward));
