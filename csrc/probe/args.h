// The probe ops: the arguments that the host layer passes to a backend, and the functions that each backend provides.
//
// Every array is contiguous; S is the storage type (float, double, Bf16, Fp16), Compute<S> that of sums.
#pragma once

#include <cstdint>

#include "common/half.h"
#include "common/philox.h"

namespace svgdx {

// Random signs: element i depends only on the key and i (probe/estimate.h).
template <class S>
struct SignArgs {
  int64_t count;
  PhiloxKey key;
  S* out;  // (count)
};

// Mean and sample variance, over V probes, of probe_v . hvp_v at each point.
template <class S>
struct ProbeTraceArgs {
  int64_t probes, points, dim;  // V, N, D
  const S* probe;               // (V, N, D)
  const S* hvp;                 // (V, N, D)
  Compute<S>* mean;             // (N)
  Compute<S>* variance;         // (N), divisor V - 1; NaN for V = 1
};

template <class S>
struct ProbeTraceGradArgs {
  int64_t probes, points, dim;
  const S* probe;
  const S* hvp;
  const Compute<S>* grad_mean;      // (N); null means zero
  const Compute<S>* grad_variance;  // (N); null means zero
  S* grad_probe;                    // (V, N, D)
  S* grad_hvp;                      // (V, N, D)
};

}  // namespace svgdx

namespace svgdx::SVGDX_BACKEND {

template <class S>
void rademacher(const SignArgs<S>& args, void* stream);
template <class S>
void probe_trace(const ProbeTraceArgs<S>& args, void* stream);
template <class S>
void probe_trace_backward(const ProbeTraceGradArgs<S>& args, void* stream);

}  // namespace svgdx::SVGDX_BACKEND
