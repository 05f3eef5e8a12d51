// The CPU backend of the probe ops: torch's threads share blocks of signs, and points.
#include <torch/csrc/stable/ops.h>

#include "probe/cpu/estimate_kernel.h"
#include "probe/estimate.h"

namespace svgdx::cpu {
namespace {

// Points that keep a thread busy for a few microseconds.
int64_t grain(int64_t point_length) { return 1 + (int64_t(1) << 13) / (1 + point_length); }

}  // namespace

template <class S>
void rademacher(const SignArgs<S>& args, void*) {
  const int64_t blocks = (args.count + kSignsPerBlock - 1) / kSignsPerBlock;
  torch::stable::parallel_for(0, blocks, 128,
                              [&](int64_t begin, int64_t end) { SVGDX_ISA_CALL(rademacher, args, begin, end); });
}

template <class S>
void probe_trace(const ProbeTraceArgs<S>& args, void*) {
  torch::stable::parallel_for(0, args.points, grain(args.probes * args.dim),
                              [&](int64_t begin, int64_t end) { SVGDX_ISA_CALL(probe_trace, args, begin, end); });
}

template <class S>
void probe_trace_backward(const ProbeTraceGradArgs<S>& args, void*) {
  torch::stable::parallel_for(0, args.points, grain(args.probes * args.dim), [&](int64_t begin, int64_t end) {
    SVGDX_ISA_CALL(probe_trace_backward, args, begin, end);
  });
}

#define SVGDX_INSTANTIATE(S)                                  \
  template void rademacher(const SignArgs<S>&, void*);        \
  template void probe_trace(const ProbeTraceArgs<S>&, void*); \
  template void probe_trace_backward(const ProbeTraceGradArgs<S>&, void*);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)
SVGDX_INSTANTIATE(Bf16)
SVGDX_INSTANTIATE(Fp16)

}  // namespace svgdx::cpu
