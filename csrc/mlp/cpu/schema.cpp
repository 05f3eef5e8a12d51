// Schemas of mlp_score_hvp and mlp_laplacian.
#include <torch/csrc/stable/library.h>

#include "common/backend.h"

SVGDX_LIBRARY(m) {
  m.def(
      "mlp_score_hvp(Tensor x, Tensor? condition, Tensor probe, Tensor parameters, Tensor widths, int activation) -> "
      "(Tensor, Tensor, Tensor)");
  m.def(
      "mlp_laplacian(Tensor x, Tensor? condition, Tensor parameters, Tensor widths, int activation) -> (Tensor, "
      "Tensor, Tensor)");
}
