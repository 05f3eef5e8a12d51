// Computes a pair's weights in the gradients from its five sums (BackwardPairs):
//   dL/dx_i = (beta/M) [ G_i sum kappa + s_i sum kappa H_j - sum_j kappa (G_j + H_i s_j) - sum_j radial r_ij ]
// which is pair::grad_x with z_ij and z_ji written out, radial = kappa (weight + beta (H_i + H_j)).
#pragma once

#include "field/cuda/backward_finish.cuh"
#include "field/pair.h"

namespace svgdx::cuda {

template <class T>
struct PairWeights {
  T kappa;  // 0 for j = i, whose terms in dL/dx cancel; its term G_i in dL/ds is added at the end
  T radial;
  T gz, trace;

  __device__ PairWeights(const T (&sum)[5], T beta, T dim, T h_i, T h_j, bool itself) {
    const T value = power_of_two(beta * T(-0.5 * pair::kLog2E) * sum[0]);
    const T cross = sum[3] + sum[4] - beta * (h_i * sum[1] - h_j * sum[2]);
    kappa = itself ? T(0) : value;
    radial = kappa * (pair::weight(cross, beta, h_i + h_j, dim + 1) + beta * (h_i + h_j));
    gz = value * sum[3];
    trace = pair::trace_term(kappa, dim, sum[1]);
  }
  __device__ void add_to(RowScalars<T>& sums, T h_j) const {
    sums.kappa += kappa;
    sums.kappa_h += kappa * h_j;
    sums.gz += gz;
    sums.trace += trace;
  }
};

}  // namespace svgdx::cuda
