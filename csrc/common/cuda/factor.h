// The second factor of many products with one matrix; on a GPU just the matrix.
#pragma once

#include "common/cuda/multiply.h"

namespace svgdx::cuda {

template <class S>
class Factor {
 public:
  Factor(const Tensor& b, int64_t) : b_(b) {}

  // out (R, C) = a (R, K) times b + bias (C).
  void multiply(const Tensor& a, const Tensor& out, const OptionalTensor& bias = std::nullopt) const {
    cuda::multiply(a, b_, out, bias);
  }

 private:
  Tensor b_;
};

}  // namespace svgdx::cuda
