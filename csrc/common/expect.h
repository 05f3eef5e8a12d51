// Checks an argument of an inner op.
#pragma once

#include "common/storage.h"
#include "common/tensors.h"

namespace svgdx {

// The kernels see plain arrays, so the device, type and size of every array must be checked first.
inline void expect(const char* op, const char* name, const Tensor& t, const Tensor& like, ScalarType type,
                   const Sizes& sizes, const char* meaning) {
  SVGDX_CHECK(t.is_contiguous(), op, name, " must be contiguous");
  SVGDX_CHECK(t.is_cpu() == like.is_cpu() && t.get_device_index() == like.get_device_index(), op, name,
              " must be on the device of the other arguments");
  check_dtype(op, name, t, type);
  check_shape(op, name, t, sizes, meaning);
}

}  // namespace svgdx
