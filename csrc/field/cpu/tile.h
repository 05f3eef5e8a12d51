// Small register-tiled products for the tiled kernels: kTileRows rows by kBlock columns.
#pragma once

#include "field/cpu/pack.h"

namespace svgdx::SVGDX_ISA {

template <class C>
using Accumulators = Vec<C>[kTileRows][kTileVectors];

constexpr int64_t kTile = kTileRows * kBlock;

template <class C>
constexpr int64_t kStrip = kTileVectors * kLanes<C>;  // columns whose dot products are in registers at a time

// acc[r][v] += sum_d rows[d][r] cols[d][v]; both [dim][kWidth].
template <class C, int64_t kWidth = kBlock>
SVGDX_INLINE void add_dots(Accumulators<C>& acc, const C* rows, const C* cols, int64_t dim) {
  for (int64_t d = 0; d < dim; ++d) {
    Vec<C> column[kTileVectors];
#pragma GCC unroll 3
    for (int v = 0; v < kTileVectors; ++v) column[v] = load(cols + d * kWidth + v * kLanes<C>);
#pragma GCC unroll 4
    for (int r = 0; r < kTileRows; ++r) {
      const Vec<C> row = splat(rows[d * kWidth + r]);
#pragma GCC unroll 3
      for (int v = 0; v < kTileVectors; ++v) acc[r][v] += row * column[v];
    }
  }
}

template <class C, int NV>
SVGDX_INLINE void add_product_strip(const C* tile, const C* matrix, int64_t width, C* out, int64_t out_stride) {
  Vec<C> acc[kTileRows][NV];
#pragma GCC unroll 4
  for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < NV; ++v) acc[r][v] = load(out + r * out_stride + v * kLanes<C>);
  }
  for (int64_t j = 0; j < kBlock; ++j) {
    Vec<C> row[NV];
#pragma GCC unroll 3
    for (int v = 0; v < NV; ++v) row[v] = load(matrix + j * width + v * kLanes<C>);
#pragma GCC unroll 4
    for (int r = 0; r < kTileRows; ++r) {
      const Vec<C> factor = splat(tile[r * kBlock + j]);
#pragma GCC unroll 3
      for (int v = 0; v < NV; ++v) acc[r][v] += factor * row[v];
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 3
    for (int v = 0; v < NV; ++v) store(out + r * out_stride + v * kLanes<C>, acc[r][v]);
  }
}

// out[r] += sum_j tile[r][j] matrix[j] over the whole width.
template <class C>
inline void add_product(const C* tile, const C* matrix, int64_t width, C* out, int64_t out_stride) {
  int64_t d = 0;
  for (; d + 3 * kLanes<C> <= width; d += 3 * kLanes<C>)
    add_product_strip<C, 3>(tile, matrix + d, width, out + d, out_stride);
  if (d + 2 * kLanes<C> <= width) {
    add_product_strip<C, 2>(tile, matrix + d, width, out + d, out_stride);
  } else if (d < width) {
    add_product_strip<C, 1>(tile, matrix + d, width, out + d, out_stride);
  }
}

}  // namespace svgdx::SVGDX_ISA
