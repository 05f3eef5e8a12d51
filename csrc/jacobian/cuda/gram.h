// The Gram route's forward pass on CUDA, with torch's own ops.
#pragma once

#include "jacobian/gram.h"

namespace svgdx::cuda {

inline gram::Rows gram_rows(const Tensor& x, const Tensor& score, const Tensor& beta, const OptionalTensor& probe,
                            const OptionalTensor& hvp) {
  return gram::Rows(x, score, beta, probe, hvp);
}

inline Tensor gram_sqnorm(const gram::Rows& rows, const Tensor& beta) { return gram::GramForward(rows, beta).sqnorm(); }

}  // namespace svgdx::cuda
