// Entry points of the CPU field kernels, one set per instruction set.
#pragma once

#include "common/isa.h"
#include "svgd/svgd.h"

namespace svgdx {

// Up to this dimension a row's accumulators live in registers and differences are taken directly.
constexpr int64_t kDirectDim = 8;

}  // namespace svgdx

SVGDX_ISA_DECLARE(
    template <class T> void field_forward_direct(const FieldArgs<T>& args);
    template <class T> void field_backward_direct(const FieldGradArgs<T>& args);
    template <class T> void field_forward_tiled(const FieldArgs<T>& args);
    template <class T> void field_backward_tiled(const FieldGradArgs<T>& args);)
