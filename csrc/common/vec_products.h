// Products and transposes of small matrices in a core's cache, without calling torch. The rows of the second factor and
// those of the result are padded to whole vectors.
#pragma once

#include <algorithm>
#include <utility>

#include "common/vec.h"

namespace svgdx::SVGDX_ISA {

template <class T>
SVGDX_INLINE int64_t padded_to_lanes(int64_t n) {
  return (n + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

template <class C, int S, size_t... kLane>
SVGDX_INLINE Vec<C> rotated(Vec<C> v, std::index_sequence<kLane...>) {
  return __builtin_shufflevector(v, v, ((int(kLane) + S) % kLanes<C>)...);
}

// The sum of the lanes by halving, for rows so short that one addition after another would take longer than the row.
template <class C, int S = kLanes<C> / 2>
SVGDX_INLINE C lane_sum(Vec<C> v) {
  if constexpr (S == 0) {
    return v[0];
  } else {
    return lane_sum<C, S / 2>(v + rotated<C, S>(v, std::make_index_sequence<kLanes<C>>()));
  }
}

// A factor whose entry (r, k) is at data[r * row + k * inner]: a row-major matrix, or the transpose of one.
template <class C>
struct LeftFactor {
  const C* data;
  int64_t row, inner;
};

// out (R rows, V vectors) = or += a (R, inner) times b (inner, V vectors).
template <class C, int R, int V>
inline void product_tile(int64_t inner, LeftFactor<C> a, const C* b, int64_t b_stride, C* out, int64_t out_stride,
                         bool accumulate) {
  Vec<C> sums[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) sums[r][v] = accumulate ? load(out + r * out_stride + v * kLanes<C>) : Vec<C>{};
  }
  for (int64_t k = 0; k < inner; ++k) {
    Vec<C> column[V];
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) column[v] = load(b + k * b_stride + v * kLanes<C>);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Vec<C> factor = splat(a.data[r * a.row + k * a.inner]);
#pragma GCC unroll 3
      for (int v = 0; v < V; ++v) sums[r][v] += factor * column[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < V; ++v) store(out + r * out_stride + v * kLanes<C>, sums[r][v]);
  }
}

template <class C, int V>
inline void product_strip(int64_t rows, int64_t inner, LeftFactor<C> a, const C* b, int64_t b_stride, C* out,
                          int64_t out_stride, bool accumulate) {
  constexpr int kRows = V == 1 ? 8 : 4;  // at least eight sums, so that an addition need not wait for the previous one
  int64_t r = 0;
  const auto tile = [&](auto count) {
    product_tile<C, decltype(count)::value, V>(inner, {a.data + r * a.row, a.row, a.inner}, b, b_stride,
                                               out + r * out_stride, out_stride, accumulate);
    r += decltype(count)::value;
  };
  while (r + kRows <= rows) tile(std::integral_constant<int, kRows>());
  if (kRows > 4 && r + 4 <= rows) tile(std::integral_constant<int, 4>());
  if (r + 2 <= rows) tile(std::integral_constant<int, 2>());
  if (r < rows) tile(std::integral_constant<int, 1>());
}

// out (rows, width) = or += a (rows, inner) times b (inner, width); width is a multiple of kLanes.
template <class C>
inline void small_product(int64_t rows, int64_t inner, int64_t width, LeftFactor<C> a, const C* b, int64_t b_stride,
                          C* out, int64_t out_stride, bool accumulate = false) {
  constexpr int64_t kWide = 3 * kLanes<C>, kMiddle = 2 * kLanes<C>;
  int64_t i = 0;
  // Four vectors at the end are two and two: one alone would read more than it multiplies.
  for (; width - i > 2 * kMiddle || width - i == kWide; i += kWide) {
    product_strip<C, 3>(rows, inner, a, b + i, b_stride, out + i, out_stride, accumulate);
  }
  for (; width - i >= kMiddle; i += kMiddle) {
    product_strip<C, 2>(rows, inner, a, b + i, b_stride, out + i, out_stride, accumulate);
  }
  if (i < width) product_strip<C, 1>(rows, inner, a, b + i, b_stride, out + i, out_stride, accumulate);
}
template <class C>
inline void small_product(int64_t rows, int64_t inner, int64_t width, const C* a, int64_t a_stride, const C* b,
                          int64_t b_stride, C* out, int64_t out_stride, bool accumulate = false) {
  small_product<C>(rows, inner, width, LeftFactor<C>{a, a_stride, 1}, b, b_stride, out, out_stride, accumulate);
}

// Exchanges the upper half of each 2 S lanes of a with the lower half of the same lanes of b.
template <class C, int S, size_t... kLane>
SVGDX_INLINE void exchange(Vec<C>& a, Vec<C>& b, std::index_sequence<kLane...>) {
  const Vec<C> low = __builtin_shufflevector(a, b, (kLane & S ? int(kLane) + kLanes<C> - S : int(kLane))...);
  b = __builtin_shufflevector(a, b, (kLane & S ? int(kLane) + kLanes<C> : int(kLane) + S)...);
  a = low;
}

template <class C, int S>
SVGDX_INLINE void transpose_lanes(Vec<C> (&v)[kLanes<C>]) {
  if constexpr (S > 0) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<C>; ++i) {
      if (!(i & S)) exchange<C, S>(v[i], v[i + S], std::make_index_sequence<kLanes<C>>());
    }
    transpose_lanes<C, S / 2>(v);
  }
}

// out (cols, rows padded to lanes, zero in the padding) = the transpose of in (rows, cols). Rows of `in` are padded to
// whole vectors.
template <class C>
inline void small_transpose(int64_t rows, int64_t cols, const C* in, int64_t in_stride, C* out, int64_t out_stride) {
  for (int64_t r = 0; r < rows; r += kLanes<C>) {
    for (int64_t c = 0; c < cols; c += kLanes<C>) {
      Vec<C> block[kLanes<C>];
#pragma GCC unroll 16
      for (int i = 0; i < kLanes<C>; ++i) block[i] = r + i < rows ? load(in + (r + i) * in_stride + c) : Vec<C>{};
      transpose_lanes<C, kLanes<C> / 2>(block);
      const int64_t count = std::min<int64_t>(kLanes<C>, cols - c);
      if (count == kLanes<C>) {
#pragma GCC unroll 16
        for (int i = 0; i < kLanes<C>; ++i) store(out + (c + i) * out_stride + r, block[i]);
      } else {
        for (int i = 0; i < count; ++i) store(out + (c + i) * out_stride + r, block[i]);
      }
    }
  }
}

}  // namespace svgdx::SVGDX_ISA
