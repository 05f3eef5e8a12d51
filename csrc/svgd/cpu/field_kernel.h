// Entry points of the CPU field kernels, one set per instruction set.
#pragma once

#include "svgd/svgd.h"

namespace svgdx {

// Up to this dimension a row's accumulators live in registers and differences are taken directly.
constexpr int64_t kDirectDim = 8;

#define SVGDX_DECLARE_FIELD_KERNELS(isa)                          \
  namespace isa {                                                 \
  template <class T>                                              \
  void field_forward_direct(const FieldArgs<T>& args);            \
  template <class T>                                              \
  void field_backward_direct(const FieldGradArgs<T>& args);       \
  template <class T>                                              \
  void field_forward_tiled(const FieldArgs<T>& args);             \
  template <class T>                                              \
  void field_backward_tiled(const FieldGradArgs<T>& args);        \
  }
SVGDX_DECLARE_FIELD_KERNELS(baseline)
SVGDX_DECLARE_FIELD_KERNELS(avx2)
SVGDX_DECLARE_FIELD_KERNELS(avx512)

}  // namespace svgdx
