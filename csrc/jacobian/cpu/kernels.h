// The CPU kernels of the Jacobian ops. A work item is a block of kJacobianBlock particles of one batch row, so the
// result does not depend on how the items are distributed over threads.
#pragma once

#include "common/isa.h"
#include "jacobian/args.h"

namespace svgdx {

constexpr int64_t kMaxJacobianDim = 16;
constexpr int64_t kJacobianBlock = 16;  // a multiple of every kLanes

inline int64_t jacobian_blocks(int64_t particles) { return (particles + kJacobianBlock - 1) / kJacobianBlock; }

}  // namespace svgdx

// Each processes the items [begin, end), where item = batch row * jacobian_blocks + block, and writes
//   jacobian_forward_items: out
//   jacobian_adjoint_items: adjoint, <adjoint, A> into euler, and the gradients that depend on one particle only
//   jacobian_gather_items:  grad_x, grad_score and the rest of euler, from the adjoints of all particles
// jacobian_groups returns into how many groups of batch rows a batch of small problems is divided, 0 if items are
// faster; the functions of groups do all that their op needs.
SVGDX_ISA_DECLARE(
    template <class T> void jacobian_forward_items(const JacobianArgs<T>& args, int64_t begin, int64_t end);
    template <class T> void jacobian_adjoint_items(const JacobianGradArgs<T>& args, int64_t begin, int64_t end);
    template <class T> void jacobian_gather_items(const JacobianGradArgs<T>& args, int64_t begin, int64_t end);
    int64_t jacobian_groups(int64_t batch, int64_t particles, int64_t dim, int64_t element_size);
    template <class T> void jacobian_forward_groups(const JacobianArgs<T>& args, int64_t begin, int64_t end);
    template <class T> void jacobian_backward_groups(const JacobianGradArgs<T>& args, int64_t begin, int64_t end);)
