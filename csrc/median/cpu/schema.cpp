// Schema of median_distance.
#include <torch/csrc/stable/library.h>

#include "common/backend.h"

SVGDX_LIBRARY(m) { m.def("median_distance(Tensor x) -> Tensor"); }
