// The kernels of random numbers and of the sampling ops for one SIMD level: for tiles (draw/numbers.h) or rows
// [begin, end).
#pragma once

#include "common/isa.h"
#include "draw/args.h"

SVGDX_ISA_DECLARE(template <class S> void uniform(const NumberArgs<S>& args, int64_t begin, int64_t end);
                  template <class S> void normal(const NumberArgs<S>& args, int64_t begin, int64_t end);
                  void integers(const IntegerArgs& args, int64_t begin, int64_t end);
                  template <class S> void gfn_sample(const SampleArgs<S>& args, int64_t begin, int64_t end);)
