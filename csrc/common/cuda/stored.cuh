// Arrays of float, or of a 16-bit format whose numbers are converted where they are read and written, so that no
// converted copy of the array is needed. Which of them is a value, not a type: the conversion is a few instructions of
// a load, and a kernel for each format would triple the library.
#pragma once

#include <type_traits>

#include "common/cuda/columns.cuh"
#include "common/cuda/half.cuh"
#include "common/cuda/tile.cuh"
#include "common/format.h"

namespace svgdx::cuda {

// In a 16-bit format, `data` points to such numbers.
struct StoredFloats {
  const float* data;
  Format format;

  __device__ StoredFloats(const float* data, Format format = Format::kFloat) : data(data), format(format) {}

  // The array from number `at` on.
  __device__ StoredFloats operator+(int64_t at) const {
    return format == Format::kFloat ? StoredFloats(data + at) : StoredFloats(half(at), format);
  }
  __device__ float operator[](int64_t at) const {
    return format == Format::kFloat ? data[at] : widened(*reinterpret_cast<const uint16_t*>(half(at)));
  }
  // Four numbers, of which the first is aligned to their size.
  __device__ Pack<float, 4> four(int64_t at) const {
    if (format == Format::kFloat) return *reinterpret_cast<const Pack<float, 4>*>(data + at);
    const auto bits = *reinterpret_cast<const Pack<uint16_t, 4>*>(half(at));
    Pack<float, 4> pack;
    SVGDX_UNROLL
    for (int w = 0; w < 4; ++w) pack.v[w] = widened(bits.v[w]);
    return pack;
  }

 private:
  __device__ const float* half(int64_t at) const {
    return reinterpret_cast<const float*>(reinterpret_cast<const uint16_t*>(data) + at);
  }
  __device__ float widened(uint16_t bits) const {
    return format == Format::kBf16 ? to_compute(Bf16{bits}) : to_compute(Fp16{bits});
  }
};

// Writes one number, or four of which the first is aligned to their size.
__device__ inline uint16_t narrowed(float value, Format format) {
  return format == Format::kBf16 ? to_storage<Bf16>(value).bits : to_storage<Fp16>(value).bits;
}
__device__ inline void store_number(float* to, Format format, int64_t at, float value) {
  if (format == Format::kFloat) {
    to[at] = value;
  } else {
    reinterpret_cast<uint16_t*>(to)[at] = narrowed(value, format);
  }
}
__device__ inline void store_four(float* to, Format format, int64_t at, const Pack<float, 4>& pack) {
  if (format == Format::kFloat) {
    *reinterpret_cast<Pack<float, 4>*>(to + at) = pack;
    return;
  }
  Pack<uint16_t, 4> bits;
  SVGDX_UNROLL
  for (int w = 0; w < 4; ++w) bits.v[w] = narrowed(pack.v[w], format);
  *reinterpret_cast<Pack<uint16_t, 4>*>(reinterpret_cast<uint16_t*>(to) + at) = bits;
}

// The same for the packs of a row's columns. Doubles have no other format.
template <class T>
__device__ inline WidePack<T> load_columns(const Columns<T>& columns, const T* row) {
  return columns.load(row);
}
template <class T>
__device__ inline void store_columns(const Columns<T>& columns, T* to, Format, int64_t row, const WidePack<T>& pack) {
  columns.store(to + row, pack);
}
__device__ inline WidePack<float> load_columns(const Columns<float>& columns, const StoredFloats& row) {
  if (row.format == Format::kFloat) return columns.load(row.data);
  WidePack<float> pack{};
  if (columns.wide) {
    if (columns.first < columns.width) pack = row.four(columns.first);
    return pack;
  }
  SVGDX_UNROLL
  for (int w = 0; w < Columns<float>::kWidth; ++w) {
    if (columns.holds(w)) pack.v[w] = row[columns.first + w * columns.step];
  }
  return pack;
}
__device__ inline void store_columns(const Columns<float>& columns, float* to, Format format, int64_t row,
                                     const WidePack<float>& pack) {
  if (format == Format::kFloat) return columns.store(to + row, pack);
  if (columns.wide) {
    if (columns.first < columns.width) store_four(to, format, row + columns.first, pack);
    return;
  }
  SVGDX_UNROLL
  for (int w = 0; w < Columns<float>::kWidth; ++w) {
    if (columns.holds(w)) store_number(to, format, row + columns.first + w * columns.step, pack.v[w]);
  }
}

// load_rows and store_rows of tile.cuh.
template <class Tile>
__device__ inline void load_rows(typename Tile::Packed* tile, const StoredFloats& from, int count, int dim, bool wide) {
  if (from.format == Format::kFloat) return load_rows<Tile>(tile, from.data, count, dim, wide);
  for (RowWalk walk(threadIdx.x, blockDim.x, dim); walk.row < count; walk.advance()) {
    Tile::element(tile, walk.row, walk.d) = from[int64_t(walk.row) * dim + walk.d];
  }
}
template <class Tile, class T>
__device__ inline void store_rows(typename Tile::Packed* tile, T* to, Format format, int64_t first, int count,
                                  int dim) {
  if (!std::is_same_v<T, float> || format == Format::kFloat) return store_rows<Tile>(tile, to + first, count, dim);
  if constexpr (std::is_same_v<T, float>) {
    for (RowWalk walk(threadIdx.x, blockDim.x, dim); walk.row < count; walk.advance()) {
      store_number(to, format, first + int64_t(walk.row) * dim + walk.d, Tile::element(tile, walk.row, walk.d));
    }
  }
}

}  // namespace svgdx::cuda
