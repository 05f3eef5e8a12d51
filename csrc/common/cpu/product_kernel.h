// What a product's rows pass through while they are in the cache.
#pragma once

#include <cstdint>

#include "common/half.h"
#include "common/isa.h"

SVGDX_ISA_DECLARE(
    // values = max(v, slope v) with v = values + bias; rows are `stride` apart, a null bias adds nothing.
    template <class S> void product_epilogue(int64_t rows, int64_t width, int64_t stride, const Compute<S>* bias,
                                             Compute<S> slope, S* values);)
