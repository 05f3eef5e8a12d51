// Tiles of (n, D) arrays in shared memory.
//
// A RowTile holds up to kRows rows padded to P dimensions, as 16-byte packs in the order [pack][row]: neighbouring rows
// are adjacent in memory, so lanes that read different rows do not conflict and lanes that read one row get a
// broadcast.
#pragma once

#include "common/cuda/launch.cuh"

namespace svgdx::cuda {

// W elements that one load or store moves.
template <class T, int W>
struct alignas(sizeof(T) * W) Pack {
  T v[W];
#ifdef SVGDX_SIMT
  // The host compiler would copy element by element.
  using Chunk = typename ::simt::detail::ChunkOf<int(sizeof(T)) * W>::type;
  Pack() = default;
  SIMT_INLINE Pack(const Pack& other) { *this = other; }
  SIMT_INLINE Pack& operator=(const Pack& other) {
    *reinterpret_cast<Chunk*>(this) = *reinterpret_cast<const Chunk*>(&other);
    return *this;
  }
#endif
};

// The pack that one 16-byte access moves.
template <class S>
constexpr int kPackWidth = 16 / int(sizeof(S));
template <class S>
using WidePack = Pack<S, kPackWidth<S>>;

// Loads up to `count` elements: in one access if wide, otherwise element by element.
template <class T, int W>
__device__ inline void load_pack(Pack<T, W>& pack, const T* from, int64_t count, bool wide) {
  if (wide) {
    pack = *reinterpret_cast<const Pack<T, W>*>(from);
    return;
  }
  SVGDX_UNROLL
  for (int w = 0; w < W; ++w) {
    if (w < count) pack.v[w] = from[w];
  }
}

template <class T, int W>
__device__ inline void store_pack(T* to, const Pack<T, W>& pack, int64_t count, bool wide) {
  if (wide) {
    *reinterpret_cast<Pack<T, W>*>(to) = pack;
    return;
  }
  SVGDX_UNROLL
  for (int w = 0; w < W; ++w) {
    if (w < count) to[w] = pack.v[w];
  }
}

template <class T, int P, int Rows>
struct RowTile {
  static constexpr int kWidth = P * int(sizeof(T)) < 16 ? P : 16 / int(sizeof(T));
  static constexpr int kPacks = P / kWidth;
  static constexpr int kRows = Rows;
  // The padding spreads the packs of one row over the banks when a tile is filled.
  static constexpr int kStride = Rows + (kPacks == 1 || kPacks >= 8 ? (kPacks > 1) : 8 / kPacks);
  static constexpr int kSize = kPacks * kStride;
  using Packed = Pack<T, kWidth>;

  __device__ static Packed read(const Packed* tile, int pack, int row) { return tile[pack * kStride + row]; }
  __device__ static T& element(Packed* tile, int row, int d) {
    return reinterpret_cast<T*>(tile + (d / kWidth) * kStride + row)[d % kWidth];
  }
};

// Iterates over the elements (row, d) of contiguous rows of `dim` elements, shared by `step` threads.
struct RowWalk {
  int row, d, step_row, step_d, dim;
  __device__ RowWalk(int start, int step, int dim_)
      : row(start / dim_), d(start % dim_), step_row(step / dim_), step_d(step % dim_), dim(dim_) {}
  __device__ void advance() {
    row += step_row;
    d += step_d;
    if (d >= dim) {
      d -= dim;
      ++row;
    }
  }
};

// Fills rows [0, count) from contiguous memory; null means zeros. `wide` allows 16-byte loads.
template <class Tile, class T>
__device__ inline void load_rows(typename Tile::Packed* tile, const T* from, int count, int dim, bool wide) {
  constexpr int kWidth = Tile::kWidth;
  const int width = wide && kWidth * sizeof(T) == 16 ? kWidth : 1;
  RowWalk walk(threadIdx.x, blockDim.x, dim / width);
  for (; walk.row < count; walk.advance()) {
    if (width == 1) {
      Tile::element(tile, walk.row, walk.d) = from == nullptr ? T(0) : from[int64_t(walk.row) * dim + walk.d];
    } else {
      typename Tile::Packed pack{};
      if (from != nullptr) {
        pack = *reinterpret_cast<const typename Tile::Packed*>(from + int64_t(walk.row) * dim + walk.d * kWidth);
      }
      tile[walk.d * Tile::kStride + walk.row] = pack;
    }
  }
}

// Zeroes the padded dimensions of every row; needed only once, since load_rows never writes them.
template <class Tile>
__device__ inline void clear_padding(typename Tile::Packed* tile, int dim) {
  constexpr int kDims = Tile::kPacks * Tile::kWidth;
  for (int e = threadIdx.x; e < Tile::kRows * (kDims - dim); e += blockDim.x) {
    Tile::element(tile, e % Tile::kRows, dim + e / Tile::kRows) = 0;
  }
}

// Writes rows [0, count) to contiguous memory.
template <class Tile, class T>
__device__ inline void store_rows(typename Tile::Packed* tile, T* to, int count, int dim) {
  RowWalk walk(threadIdx.x, blockDim.x, dim);
  for (; walk.row < count; walk.advance()) {
    to[int64_t(walk.row) * dim + walk.d] = Tile::element(tile, walk.row, walk.d);
  }
}

// Copies one row into registers; write_row copies it back.
template <class Tile, class T, int P>
__device__ inline void read_row(const typename Tile::Packed* tile, int row, T (&out)[P]) {
  SVGDX_UNROLL
  for (int c = 0; c < Tile::kPacks; ++c) {
    const typename Tile::Packed pack = Tile::read(tile, c, row);
    SVGDX_UNROLL
    for (int w = 0; w < Tile::kWidth; ++w) out[c * Tile::kWidth + w] = pack.v[w];
  }
}

template <class Tile, class T, int P>
__device__ inline void write_row(typename Tile::Packed* tile, int row, const T (&in)[P]) {
  SVGDX_UNROLL
  for (int c = 0; c < Tile::kPacks; ++c) {
    typename Tile::Packed pack;
    SVGDX_UNROLL
    for (int w = 0; w < Tile::kWidth; ++w) pack.v[w] = in[c * Tile::kWidth + w];
    tile[c * Tile::kStride + row] = pack;
  }
}

}  // namespace svgdx::cuda
