// The kernels of the trace family for one SIMD level.
#pragma once

#include "common/isa.h"
#include "probe/args.h"

SVGDX_ISA_DECLARE(
    // Blocks [begin, end) of 128 signs.
    template <class S> void rademacher(const SignArgs<S>& args, int64_t begin, int64_t end);
    // Points [begin, end).
    template <class S> void probe_trace(const ProbeTraceArgs<S>& args, int64_t begin, int64_t end);
    template <class S> void probe_trace_backward(const ProbeTraceGradArgs<S>& args, int64_t begin, int64_t end);)
