// A Python number as the tensor that an op takes, for the ops' overloads.
#pragma once

#include "common/tensors.h"

namespace svgdx {

inline Tensor number(const char* op, const char* name, double value, bool positive) {
  SVGDX_CHECK(std::isfinite(value) && (!positive || value > 0), op, name, " must be finite",
              positive ? " and positive" : "", ", but is ", value);
  return torch::stable::full({}, value, ScalarType::Double);
}

}  // namespace svgdx
