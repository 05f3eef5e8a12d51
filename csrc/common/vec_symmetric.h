// Symmetric products of small square matrices in a core's cache: half of the entries are computed and then mirrored.
#pragma once

#include "common/vec_products.h"

namespace svgdx::SVGDX_ISA {

// Calls f(above, below) for the pairs of blocks of kLanes x kLanes of a square matrix that mirror one another, as
// arrays of vectors that are loaded before and stored after. The matrix has padded_to_lanes(n) rows, of which those
// from n on are zeroed first: what an earlier problem left there, perhaps NaN, must not be mirrored.
template <class C, class F>
SVGDX_INLINE void each_mirrored_block(int64_t n, C* matrix, int64_t stride, const F& f) {
  const int64_t padded = padded_to_lanes<C>(n);
  for (int64_t r = n; r < padded; ++r) std::fill_n(matrix + r * stride, padded, C(0));
  for (int64_t r = 0; r < n; r += kLanes<C>) {
    for (int64_t c = r; c < n; c += kLanes<C>) {
      Vec<C> above[kLanes<C>], below[kLanes<C>];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes<C>; ++i) {
        above[i] = load(matrix + (r + i) * stride + c);
        below[i] = load(matrix + (c + i) * stride + r);
      }
      f(above, below);
#pragma GCC unroll 16
      for (int i = 0; i < kLanes<C>; ++i) {
        store(matrix + (r + i) * stride + c, above[i]);
        store(matrix + (c + i) * stride + r, below[i]);
      }
    }
  }
}

// matrix += its transpose.
template <class C>
inline void add_transpose(int64_t n, C* matrix, int64_t stride) {
  each_mirrored_block<C>(n, matrix, stride, [](Vec<C>(&above)[kLanes<C>], Vec<C>(&below)[kLanes<C>]) {
    transpose_lanes<C, kLanes<C> / 2>(below);
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<C>; ++i) below[i] = above[i] = above[i] + below[i];
    transpose_lanes<C, kLanes<C> / 2>(below);
  });
}

// out (n, n) = a (n, inner) times b (inner, n), which is symmetric, as if b is the transpose of a; out has
// padded_to_lanes(n) rows.
template <class C>
inline void small_square(int64_t n, int64_t inner, const C* a, int64_t a_stride, const C* b, int64_t b_stride, C* out,
                         int64_t out_stride) {
  constexpr int64_t kWide = 2 * kLanes<C>;
  const int64_t width = padded_to_lanes<C>(n);
  for (int64_t c = 0; c < width; c += kWide) {
    const int64_t cols = std::min(kWide, width - c), rows = std::min(n, c + cols);
    small_product<C>(rows, inner, cols, a, a_stride, b + c, b_stride, out + c, out_stride);
  }
  each_mirrored_block<C>(n, out, out_stride, [](Vec<C>(&above)[kLanes<C>], Vec<C>(&below)[kLanes<C>]) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<C>; ++i) below[i] = above[i];
    transpose_lanes<C, kLanes<C> / 2>(below);
  });
}

}  // namespace svgdx::SVGDX_ISA
