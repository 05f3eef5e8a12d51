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
  __device__ explicit operator bool() const { return data != nullptr; }

  // The array from number `at` on.
  __device__ StoredFloats operator+(int64_t at) const {
    return format == Format::kFloat ? StoredFloats(data + at) : StoredFloats(half(at), format);
  }
  __device__ float operator[](int64_t at) const {
    return format == Format::kFloat ? data[at] : widened((*this + at).bits());
  }
  // The first number in a 16-bit format.
  __device__ uint16_t bits() const { return *reinterpret_cast<const uint16_t*>(data); }
  // Numbers of which the first is aligned to the size of all.
  template <int W>
  __device__ Pack<float, W> pack(int64_t at) const {
    if (format == Format::kFloat) return *reinterpret_cast<const Pack<float, W>*>(data + at);
    const auto bits = *reinterpret_cast<const Pack<uint16_t, W>*>(half(at));
    Pack<float, W> pack;
    SVGDX_UNROLL
    for (int w = 0; w < W; ++w) pack.v[w] = widened(bits.v[w]);
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

template <class T>
using Stored = std::conditional_t<std::is_same_v<T, float>, StoredFloats, const T*>;

// An array of a kernel's arguments, which have a format; doubles have but one.
template <class Args, class T>
__device__ inline Stored<T> stored(const Args& args, const T* array) {
  if constexpr (std::is_same_v<T, float>) {
    return StoredFloats(array, args.format);
  } else {
    return array;
  }
}
// The array from number `at` on, or none if there is none.
template <class Args, class T>
__device__ inline Stored<T> stored_if(const Args& args, const T* array, int64_t at) {
  return array == nullptr ? stored(args, array) : stored(args, array) + at;
}

// load_pack of tile.cuh.
template <int W>
__device__ inline void load_pack(Pack<float, W>& pack, const StoredFloats& from, int64_t count, bool wide) {
  if (from.format == Format::kFloat) return load_pack(pack, from.data, count, wide);
  if (wide) {
    pack = from.pack<W>(0);
    return;
  }
  SVGDX_UNROLL
  for (int w = 0; w < W; ++w) {
    if (w < count) pack.v[w] = from[w];
  }
}

// Writes one number, or several of which the first is aligned to the size of all.
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
template <int W>
__device__ inline void store_numbers(float* to, Format format, int64_t at, const Pack<float, W>& pack) {
  if (format == Format::kFloat) {
    *reinterpret_cast<Pack<float, W>*>(to + at) = pack;
    return;
  }
  Pack<uint16_t, W> bits;
  SVGDX_UNROLL
  for (int w = 0; w < W; ++w) bits.v[w] = narrowed(pack.v[w], format);
  *reinterpret_cast<Pack<uint16_t, W>*>(reinterpret_cast<uint16_t*>(to) + at) = bits;
}
// store_pack of tile.cuh.
template <int W>
__device__ inline void store_pack(float* to, Format format, int64_t at, const Pack<float, W>& pack, int64_t count,
                                  bool wide) {
  if (wide) return store_numbers(to, format, at, pack);
  SVGDX_UNROLL
  for (int w = 0; w < W; ++w) {
    if (w < count) store_number(to, format, at + w, pack.v[w]);
  }
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
    if (columns.first < columns.width) pack = row.pack<kPackWidth<float>>(columns.first);
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
    if (columns.first < columns.width) store_numbers(to, format, row + columns.first, pack);
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
    Tile::element(tile, walk.row, walk.d) = from ? from[int64_t(walk.row) * dim + walk.d] : 0.0f;
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
