// Schemas of the probe ops.
#include <torch/csrc/stable/library.h>

#include "common/backend.h"

SVGDX_LIBRARY(m) {
  m.def("rademacher(Tensor like, SymInt seed, SymInt offset) -> Tensor");
  // Seed and offset from an int64 tensor (2).
  m.def("rademacher.key(Tensor like, Tensor key, SymInt offset) -> Tensor");
  m.def("probe_trace(Tensor probe, Tensor hvp) -> (Tensor, Tensor)");
  m.def("probe_trace_backward(Tensor? grad_mean, Tensor? grad_variance, Tensor probe, Tensor hvp) -> (Tensor, Tensor)");
}
