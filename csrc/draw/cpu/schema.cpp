// Schemas of the sampling ops.
#include <torch/csrc/stable/library.h>

#include "common/backend.h"

SVGDX_LIBRARY(m) {
  m.def(
      "gfn_sample_forward(Tensor logits, Tensor state, SymInt seed, SymInt offset, float temperature=1.0, float "
      "epsilon=0.0) -> (Tensor, Tensor, Tensor)");
  m.def(
      "gfn_sample_backward(Tensor logits, Tensor state, SymInt seed, SymInt offset, float temperature=1.0, float "
      "epsilon=0.0) -> (Tensor, Tensor, Tensor)");
}
