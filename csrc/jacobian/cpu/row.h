// One batch row of a Jacobian op, as the kernels read it.
#pragma once

#include <algorithm>

#include "common/beta.h"
#include "field/pair.h"
#include "jacobian/cpu/kernels.h"
#include "jacobian/cpu/lanes.h"

namespace svgdx::SVGDX_ISA {

template <class T>
struct JacobianRow {
  int64_t offset;  // of the row's first particle among all rows' particles
  int64_t particles;
  int dim;
  const T* x;
  const T* score;
  T beta, exponent, scale;  // 1/sigma^2; log2(kappa) = exponent |r|^2; beta/M
};

template <class T>
JacobianRow<T> jacobian_row(const JacobianArgs<T>& args, int64_t batch) {
  const int64_t offset = batch * args.particles;
  const double sigma = double(args.bandwidth[batch]);
  const double beta = std::min(1 / (sigma * sigma), double(kLargestBeta<T>));
  return {offset,
          args.particles,
          int(args.dim),
          args.x + offset * args.dim,
          args.score + offset * args.dim,
          T(beta),
          T(-0.5 * pair::kLog2E * beta),
          T(beta / double(args.particles))};
}

// Calls body(row, first) for every vector of particles in the work items [begin, end).
template <class T, class Body>
SVGDX_INLINE void for_each_vector(const JacobianArgs<T>& args, int64_t begin, int64_t end, const Body& body) {
  const int64_t blocks = jacobian_blocks(args.particles);
  for (int64_t item = begin; item < end; ++item) {
    const JacobianRow<T> row = jacobian_row(args, item / blocks);
    const int64_t start = item % blocks * kJacobianBlock;
    const int64_t stop = start + kJacobianBlock < args.particles ? start + kJacobianBlock : args.particles;
    for (int64_t first = start; first < stop; first += kLanes<T>) body(row, first);
  }
}

// kappa of the lanes' particles with particle j; 0 in the lane of j itself.
template <class T>
SVGDX_INLINE Vec<T> off_diagonal_kappa(const JacobianRow<T>& row, Vec<T> squared_distance, int64_t first, int64_t j) {
  Vec<T> kappa = exp2_nonpositive<T>(squared_distance * row.exponent);
  if (j >= first && j < first + kLanes<T>) kappa[j - first] = 0;
  return kappa;
}

}  // namespace svgdx::SVGDX_ISA
