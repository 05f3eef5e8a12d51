// |J_i|_F^2 of few particles of 16 < dim <= 128 in one launch: a block for each particle forms A_i in registers, in
// float64 as the Gram route (gram.h) does.
#pragma once

#include "common/limits.h"
#include "jacobian/args.h"

namespace svgdx::cuda {

constexpr int64_t kMatrixDims = 128;

// The dimensions of the matrices, padded by zeros.
inline int matrix_dims(int64_t dim) { return dim <= 32 ? 32 : dim <= 64 ? 64 : 128; }

// Whether the M^2 D^2 products in float64 of all matrices take less time than the six launches of the Gram route, even
// on a GPU with few units for float64. Depends on shapes only, so that results do.
template <class T>
bool forms_matrix(const JacobianArgs<T>& args) {
  const int64_t padded = matrix_dims(args.dim);
  return args.dim <= kMatrixDims && args.batch * args.particles * args.particles <= kMatrixProducts / (padded * padded);
}

// For shapes that forms_matrix accepts.
template <class T>
void matrix_forward(const JacobianArgs<T>& args, void* stream);

}  // namespace svgdx::cuda
