// The kernel of the sampling ops for one SIMD level, for rows [begin, end).
#pragma once

#include "common/isa.h"
#include "draw/args.h"

SVGDX_ISA_DECLARE(template <class S> void gfn_sample(const SampleArgs<S>& args, int64_t begin, int64_t end);)
