// On CUDA the last layer's gradient is formed in blocks of rows of all trajectories.
#pragma once

#include "trajectory/args.h"

namespace svgdx::cuda {

template <class S>
constexpr bool linear_backward_sorted(const LinearGrad<S>&) {
  return false;
}

}  // namespace svgdx::cuda
