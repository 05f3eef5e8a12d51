// Schemas of random numbers and of the sampling ops. The overloads `key` take seed and offset from an int64 tensor (2).
#include <torch/csrc/stable/library.h>

#include "common/backend.h"

SVGDX_LIBRARY(m) {
  m.def("uniform(Tensor like, SymInt seed, SymInt offset) -> Tensor");
  m.def("uniform.key(Tensor like, Tensor key, SymInt offset) -> Tensor");
  m.def("normal(Tensor like, SymInt seed, SymInt offset) -> Tensor");
  m.def("normal.key(Tensor like, Tensor key, SymInt offset) -> Tensor");
  m.def("integers(Tensor like, SymInt bound, SymInt seed, SymInt offset) -> Tensor");
  m.def("integers.key(Tensor like, SymInt bound, Tensor key, SymInt offset) -> Tensor");
  m.def(
      "gfn_sample_forward(Tensor logits, Tensor state, SymInt seed, SymInt offset, float temperature=1.0, float "
      "epsilon=0.0) -> (Tensor, Tensor, Tensor)");
  m.def(
      "gfn_sample_forward.key(Tensor logits, Tensor state, Tensor key, SymInt offset, float temperature=1.0, float "
      "epsilon=0.0) -> (Tensor, Tensor, Tensor)");
  m.def(
      "gfn_sample_backward(Tensor logits, Tensor state, SymInt seed, SymInt offset, float temperature=1.0, float "
      "epsilon=0.0) -> (Tensor, Tensor, Tensor)");
  m.def(
      "gfn_sample_backward.key(Tensor logits, Tensor state, Tensor key, SymInt offset, float temperature=1.0, float "
      "epsilon=0.0) -> (Tensor, Tensor, Tensor)");
}
