// The kernels of the trajectory ops for one SIMD level, each for rows [begin, end) of its arguments.
#pragma once

#include "common/isa.h"
#include "trajectory/args.h"

SVGDX_ISA_DECLARE(template <class S> void trajectory_rows(const TrajectoryRows<S>& args, int64_t begin, int64_t end);
                  template <class S>
                  void trajectory_rows_backward(const TrajectoryRowsGrad<S>& args, int64_t begin, int64_t end);
                  template <class S> void masked_rows(const MaskedRows<S>& args, int64_t begin, int64_t end);
                  template <class S>
                  void masked_rows_backward(const MaskedRowsGrad<S>& args, int64_t begin, int64_t end);)
