// Products of two matrices on a GPU.
#pragma once

#include "common/tensors.h"

namespace svgdx::cuda {

// out (R, C) = a (R, K) times b (K, C) + bias (C).
inline void multiply(const Tensor& a, const Tensor& b, const Tensor& out, const OptionalTensor& bias = std::nullopt) {
  aten("mm", "out", a, b, out);
  if (!bias) return;
  Tensor sum = out;
  torch::stable::copy_(sum, torch::stable::subtract(out, *bias, -1.0));
}

}  // namespace svgdx::cuda
