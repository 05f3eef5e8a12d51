#include "common/cpu/product_kernel.h"

#include <algorithm>
#include <type_traits>

#include "common/vec.h"
#include "common/vec_products.h"
#include "common/vec_rows.h"

namespace svgdx::SVGDX_ISA {
namespace {

// A packed factor is a row of panels of two vectors, the last one of one vector if that is enough; a panel has the
// entries of its columns, padded with zeros, row by row.
constexpr int kPanel = 2;
// Rows of a tile: its sums, a row of the panel and a broadcast fill the registers.
constexpr int kTileRows = SVGDX_VECTOR_BYTES == 64 ? 12 : 6;
// Rows of a and inner numbers at a time, so that they and a panel stay in the cache.
constexpr int64_t kBlockRows = 96, kBlockInner = 384;

template <class C>
constexpr int64_t kPanelWidth = kPanel * kLanes<C>;

// The tile of R rows and V vectors at (row, column), over the inner numbers [from, to).
template <class C, int R, int V>
inline void packed_tile(const PackedProduct<C>& args, int64_t row, int64_t column, int64_t from, int64_t to) {
  Vec<C> sums[R][V] = {};
  const C* a = args.a + row * args.row_stride + from * args.inner_stride;
  const C* panel = args.packed + column * (args.of ? args.of : args.inner) + (args.first + from) * V * kLanes<C>;
  const int64_t row_stride = args.row_stride, inner_stride = args.inner_stride;
  for (int64_t k = from; k < to; ++k, a += inner_stride, panel += V * kLanes<C>) {
    Vec<C> entries[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) entries[v] = load(panel + v * kLanes<C>);
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
      const C factor = a[r * row_stride];  // a broadcast from memory, which splat() is not
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sums[r][v] += factor * entries[v];
    }
  }
  const bool adds = args.adds || from > 0, ends = !args.adds && to == args.inner;
  const Vec<C> slope = splat(args.slope);
  const auto finish = [&](int r, int v, auto at) {
    const int64_t first = column + v * kLanes<C>;
    C* out = args.out + (row + r) * (args.out_stride ? args.out_stride : args.width) + first;
    Vec<C> value = sums[r][v];
    if (adds) value += at.load(out);
    if (ends) {
      if (args.bias) value += at.load(args.bias + first);
      const Vec<C> scaled = slope * value;
      value = value > scaled ? value : scaled;
    }
    at.store(out, value);
  };
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      const int64_t left = args.width - column - v * kLanes<C>;
      if (left >= kLanes<C>) {
        finish(r, v, Whole<C>{});
      } else if (left > 0) {
        finish(r, v, Part<C>{left});
      }
    }
  }
}

template <class C, int V>
inline void packed_strip(const PackedProduct<C>& args, int64_t row, int64_t end, int64_t column, int64_t from,
                         int64_t to) {
  const auto tiles = [&](auto count) {
    for (; row + decltype(count)::value <= end; row += decltype(count)::value) {
      packed_tile<C, decltype(count)::value, V>(args, row, column, from, to);
    }
  };
  tiles(std::integral_constant<int, V == 1 ? 8 : kTileRows>());
  tiles(std::integral_constant<int, 4>());
  tiles(std::integral_constant<int, 2>());
  tiles(std::integral_constant<int, 1>());
}

// The L rows from k on of one vector of columns, whose entries follow one another along k.
template <class C>
inline void pack_turned(const C* b, int64_t col_stride, C* packed, int64_t pitch) {
  Vec<C> block[kLanes<C>];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<C>; ++i) block[i] = load(b + i * col_stride);
  transpose_lanes<C, kLanes<C> / 2>(block);
#pragma GCC unroll 16
  for (int i = 0; i < kLanes<C>; ++i) store(packed + i * pitch, block[i]);
}

}  // namespace

template <class C>
int64_t packed_numbers(int64_t inner, int64_t width) {
  return inner * padded_to_lanes<C>(width);
}

template <class C>
void pack_factor(int64_t inner, int64_t width, const C* b, int64_t row_stride, int64_t col_stride, C* packed) {
  for (int64_t column = 0; column < width; column += kPanelWidth<C>) {
    const int64_t left = width - column, pitch = left > kLanes<C> ? kPanelWidth<C> : kLanes<C>;
    C* panel = packed + column * inner;
    for (int64_t first = 0; first < pitch; first += kLanes<C>) {
      const int64_t count = std::min<int64_t>(kLanes<C>, left - first);
      const C* from = b + (column + first) * col_stride;
      int64_t k = 0;
      if (row_stride == 1 && count == kLanes<C>) {
        for (; k + kLanes<C> <= inner; k += kLanes<C>)
          pack_turned(from + k, col_stride, panel + k * pitch + first, pitch);
      }
      if (col_stride == 1 && count == kLanes<C>) {
        for (; k < inner; ++k) store(panel + k * pitch + first, load(from + k * row_stride));
      }
      for (; k < inner; ++k) {
        C* to = panel + k * pitch + first;
        for (int64_t i = 0; i < kLanes<C>; ++i) to[i] = i < count ? from[k * row_stride + i * col_stride] : C(0);
      }
    }
  }
}

template <class C>
void packed_product(const PackedProduct<C>& args) {
  const int64_t blocks = std::max<int64_t>(1, (args.inner + kBlockInner - 1) / kBlockInner);
  for (int64_t row = 0; row < args.rows; row += kBlockRows) {
    const int64_t end = std::min(args.rows, row + kBlockRows);
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t from = args.inner * block / blocks, to = args.inner * (block + 1) / blocks;
      for (int64_t column = 0; column < args.width; column += kPanelWidth<C>) {
        if (args.width - column > kLanes<C>) {
          packed_strip<C, kPanel>(args, row, end, column, from, to);
        } else {
          packed_strip<C, 1>(args, row, end, column, from, to);
        }
      }
    }
  }
}

// A plain loop, which the compiler vectorises for each SIMD level.

template <class S>
void product_epilogue(int64_t rows, int64_t width, int64_t stride, const Compute<S>* bias, Compute<S> slope,
                      S* values) {
  using C = Compute<S>;
  for (int64_t r = 0; r < rows; ++r) {
    S* __restrict row = values + r * stride;
    for (int64_t i = 0; i < width; ++i) {
      const C value = widen(row[i]) + (bias ? bias[i] : C(0)), scaled = slope * value;
      row[i] = narrow<S>(value > scaled ? value : scaled);  // a maximum, because a conditional would not vectorise
    }
  }
}

#define SVGDX_INSTANTIATE(S) \
  template void product_epilogue(int64_t, int64_t, int64_t, const Compute<S>*, Compute<S>, S*);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)
SVGDX_INSTANTIATE(Bf16)
SVGDX_INSTANTIATE(Fp16)
#undef SVGDX_INSTANTIATE

#define SVGDX_INSTANTIATE(C)                                                      \
  template int64_t packed_numbers<C>(int64_t, int64_t);                           \
  template void pack_factor<C>(int64_t, int64_t, const C*, int64_t, int64_t, C*); \
  template void packed_product<C>(const PackedProduct<C>&);
SVGDX_INSTANTIATE(float)
SVGDX_INSTANTIATE(double)

}  // namespace svgdx::SVGDX_ISA
