// The Gram route (csrc/jacobian/gram.h) on the CPU.
#pragma once

#include "common/particles.h"
#include "jacobian/cpu/gram_kernel.h"

namespace svgdx::cpu {

template <class T>
void gram_forward(const Particles&, const JacobianArgs<T>& args) {
  SVGDX_ISA_CALL(gram_forward_rows, args);
}

// euler: (batch, M).
template <class T>
void gram_backward(const Particles&, const JacobianGradArgs<T>& args, double* euler) {
  SVGDX_ISA_CALL(gram_backward_rows, args, euler);
}

}  // namespace svgdx::cpu
