// |J_i|_F^2 and its gradient by the Gram route (csrc/jacobian/gram.h) on the CPU.
#pragma once

#include "common/isa.h"
#include "jacobian/args.h"

// A small problem is computed by one thread in its cache; a large one shares its products and rows among the threads.
// The arrays are those of csrc/jacobian/args.h; euler (batch, M) is in double, and `adjoint` is not used.
SVGDX_ISA_DECLARE(template <class T> void gram_forward_rows(const JacobianArgs<T>& args);
                  template <class T> void gram_backward_rows(const JacobianGradArgs<T>& args, double* euler);)
