// Products with a packed second factor, and what a product's rows pass through while they are in the cache.
#pragma once

#include <cstdint>

#include "common/half.h"
#include "common/isa.h"

namespace svgdx {

// out (rows, width) = f(a (rows, inner) times b (inner, width) + bias), f(v) = max(v, slope v).
template <class C>
struct PackedProduct {
  int64_t rows, inner, width;
  const C* a;
  int64_t row_stride, inner_stride;  // of a
  const C* packed;                   // b as pack_factor wrote it
  const C* bias;                     // (width) or null
  C slope;
  bool adds;  // to out, without bias and slope
  C* out;
  // b is the rows [first, first + inner) of a factor that was packed with `of` rows; 0: it is all of them.
  int64_t first = 0, of = 0;
  int64_t out_stride = 0;  // from one row of out to the next; 0: out is dense
};

}  // namespace svgdx

SVGDX_ISA_DECLARE(
    // Numbers of a packed b (inner, width).
    template <class C> int64_t packed_numbers(int64_t inner, int64_t width);
    // Writes b, whose strides are those between its rows and columns, in the order in which packed_product reads it.
    template <class C>
    void pack_factor(int64_t inner, int64_t width, const C* b, int64_t row_stride, int64_t col_stride, C* packed);
    template <class C> void packed_product(const PackedProduct<C>& args);
    // values = max(v, slope v) with v = values + bias; rows are `stride` apart, a null bias adds nothing.
    template <class S> void product_epilogue(int64_t rows, int64_t width, int64_t stride, const Compute<S>* bias,
                                             Compute<S> slope, S* values);)
