// Computes a pair's weights in the gradients from its five sums (BackwardPairs), and what it adds to its row:
//   dL/dx_i = (beta/M) [ G_i sum kappa + s_i sum kappa H_j - sum_j kappa (G_j + H_i s_j) - sum_j radial r_ij ]
#pragma once

#include "field/cuda/backward_finish.cuh"
#include "field/pair.h"

namespace svgdx::cuda {

template <class T>
struct PairWeights {
  T kappa;  // 0 for j = i, whose terms in dL/dx cancel; its term G_i in dL/ds is added at the end
  T kappa_beta, radial;
  T value, log_sigma;

  __device__ PairWeights(const T (&sum)[5], T beta, T dim, T h_i, T h_j, bool itself) {
    const T log2_kappa = bounded_exponent(beta * T(-0.5 * pair::kLog2E) * sum[0]);
    const T log_kappa = log2_kappa * T(0.69314718055994530942);
    const pair::Sums<pair::Scalar<T>> sums{sum[0], sum[1], sum[2], sum[3], sum[4]};
    const pair::Weights<pair::Scalar<T>> weights(sums, itself ? T(0) : power_of_two(log2_kappa), log_kappa, beta, h_i,
                                                 h_j, T(0.5) * dim);
    kappa = weights.kappa;
    kappa_beta = weights.kappa_beta;
    radial = weights.radial;
    value = weights.value;
    log_sigma = weights.log_sigma_term(log_kappa);
  }
  __device__ void add_to(RowScalars<T>& sums, T h_j) const {
    sums.kappa += kappa;
    sums.kappa_h += kappa * h_j;
    sums.value += value;
    sums.log_sigma += log_sigma;
  }

 private:
  // Where 2^x is 0 for every smaller x; NaN stays NaN.
  __device__ static T bounded_exponent(T x) {
    const T lowest = sizeof(T) == 8 ? T(-1100) : T(-160);
    return x < lowest ? lowest : x;
  }
};

}  // namespace svgdx::cuda
