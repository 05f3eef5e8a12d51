// First half for large dimensions: the sums over dimensions for every pair in a block of rows and columns.
//
// For dim > 16, pairs are processed in blocks that fit a scratch matrix: this kernel forms each pair's dot products,
// another turns them into kernel values (forward_large.cuh, backward_large.cuh), and product.cuh
// multiplies these with the columns. Both products use direct differences, so clusters far from the origin keep full
// accuracy.
#pragma once

#include "common/cuda/divider.cuh"
#include "common/cuda/stored.cuh"
#include "common/cuda/tile.cuh"
#include "common/cuda/warp.cuh"
#include "field/args.h"

namespace svgdx::cuda {

constexpr int kLargeThreads = 256;
constexpr int64_t kPairCols = 64;      // columns per tile
constexpr int64_t kProductRows = 128;  // rows per product tile, a multiple of every row tile here
constexpr int64_t kProductDims = 32;

// A block of pairs: rows [row0, row0 + rows) and columns [col0, col0 + cols) of the batch entries starting at batch0.
// Each scratch matrix has padded_rows * padded_cols elements.
struct PairBlock {
  int64_t batch0, batches, row0, rows, col0, cols;
  int64_t padded_rows, padded_cols;
  int64_t dim_splits, dims_per_split;
  Divider by_rows, by_batches, by_row_tiles, by_col_tiles;  // tiles of the pair sums

  SVGDX_HD int64_t matrix() const { return padded_rows * padded_cols; }
  // Offset of the matrix of one sum and batch entry in (dim_splits, sums, batches, padded_rows, padded_cols).
  SVGDX_HD int64_t plane(int64_t split, int sum, int sums, int64_t batch) const {
    return ((split * sums + sum) * batches + batch) * matrix();
  }
};

// How the blocks of a product of matrices of pairs with columns are divided: into parts of the columns, tiles of
// dimensions and tiles of rows.
struct ProductGrid {
  int64_t parts, cols_per_part;
  Divider by_dim_tiles, by_parts, by_row_tiles;

  // Sets the tiles; returns the number of blocks of one batch entry.
  int64_t divide(int64_t dim_tiles, int64_t row_tiles) {
    by_dim_tiles = Divider(dim_tiles);
    by_parts = Divider(parts);
    by_row_tiles = Divider(row_tiles);
    return dim_tiles * parts * row_tiles;
  }
};

// What a block of it handles.
struct ProductBlock {
  int64_t d0, part, row0, batch;
  __device__ ProductBlock(const ProductGrid& grid, int64_t index, int64_t tile_dims, int64_t tile_rows) {
    d0 = grid.by_dim_tiles.split(index) * tile_dims;
    part = grid.by_parts.split(index);
    row0 = grid.by_row_tiles.split(index) * tile_rows;
    batch = index;
  }
};

// x, score and upstream gradient of rows and columns; null means zeros.
template <class T>
struct PairInputs {
  FieldShape shape;
  Format format;
  const T* row[3];
  const T* col[3];
  bool wide;
};

// kRowArrays and kColArrays are the numbers of arrays read, kSums that of sums formed; a thread handles kMicroRows x 4
// pairs.
struct ForwardPairs {
  static constexpr int kRowArrays = 1, kColArrays = 2, kSums = 2, kMicroRows = 4;
  // |r|^2, r.s_j
  template <class T>
  __device__ static void add(T (&sum)[2], const T (&row)[1], const T (&col)[2]) {
    const T r = row[0] - col[0];
    sum[0] += r * r;
    sum[1] += r * col[1];
  }
};

struct BackwardPairs {
  static constexpr int kRowArrays = 3, kColArrays = 3, kSums = 5, kMicroRows = 2;
  // pair::Sums
  template <class T>
  __device__ static void add(T (&sum)[5], const T (&row)[3], const T (&col)[3]) {
    const T r = row[0] - col[0];
    sum[0] += r * r;
    sum[1] += r * col[1];
    sum[2] += r * row[1];
    sum[3] += row[2] * col[1];
    sum[3] += col[2] * row[1];
    sum[4] += r * (row[2] - col[2]);
  }
};

// A chunk of kDims dimensions of up to Rows rows, transposed to [dimension][row].
template <class T, int Rows>
struct ChunkTile {
  static constexpr int kDims = 64 / int(sizeof(T));
  static constexpr int kWidth = 16 / int(sizeof(T));
  static constexpr int kStride = Rows + kWidth;
  static constexpr int kSize = kDims * kStride;
};

// Loads a chunk whose first element is `from`. Rows from `count` on and dimensions from `dims` on (rounded up to a pack
// if wide) become zeros. Neighbouring threads take neighbouring rows, so that the transposing stores do not conflict;
// two packs of a row fill a sector.
template <class Tile, int Rows, class T>
__device__ inline void load_chunk(T* tile, const Stored<T>& from, int64_t pitch, int64_t count, int64_t dims,
                                  bool wide) {
  constexpr int kWidth = Tile::kWidth;
  constexpr int kPacks = Tile::kDims / kWidth;
  if (wide) {
    for (int e = threadIdx.x; e < Rows * kPacks; e += blockDim.x) {
      const int row = e % 16 + e / (16 * kPacks) * 16;
      const int d = e / 16 % kPacks * kWidth;
      Pack<T, kWidth> pack{};
      if (bool(from) && row < count && d < dims) load_pack(pack, from + (row * pitch + d), kWidth, true);
      SVGDX_UNROLL
      for (int w = 0; w < kWidth; ++w) tile[(d + w) * Tile::kStride + row] = pack.v[w];
    }
  } else {
    for (int e = threadIdx.x; e < Rows * Tile::kDims; e += blockDim.x) {
      const int row = e / Tile::kDims;
      const int d = e % Tile::kDims;
      const bool inside = bool(from) && row < count && d < dims;
      tile[d * Tile::kStride + row] = inside ? from[row * pitch + d] : T(0);
    }
  }
}

// The n-th of the `Count` tile rows, in packs, that belong to thread `group` of `groups`.
template <class T, int Count>
struct Micro {
  static constexpr int kWidth = Count * int(sizeof(T)) < 16 ? Count : 16 / int(sizeof(T));
  using Packed = Pack<T, kWidth>;
  __device__ static int index(int group, int groups, int n) {
    return n / kWidth * groups * kWidth + group * kWidth + n % kWidth;
  }
  __device__ static void read(T (&out)[Count], const T* line, int group, int groups) {
    SVGDX_UNROLL
    for (int p = 0; p < Count / kWidth; ++p) {
      const Packed pack = *reinterpret_cast<const Packed*>(line + (p * groups + group) * kWidth);
      SVGDX_UNROLL
      for (int w = 0; w < kWidth; ++w) out[p * kWidth + w] = pack.v[w];
    }
  }
};

// Row and column group of a thread among 16 x 16: a warp covers 4 x 8, so that its column reads use every bank once and
// its row reads are broadcasts.
__device__ inline int tile_ty() { return threadIdx.x / 64 * 4 + threadIdx.x % 32 / 8; }
__device__ inline int tile_tx() { return threadIdx.x / 32 % 2 * 8 + threadIdx.x % 8; }

// Adds one chunk to the sums of a thread's pairs.
template <class Mode, class T, class RowChunk, class ColChunk>
__device__ inline void add_chunk(T (&sums)[Mode::kMicroRows][4][Mode::kSums], const T* rows, const T* cols,
                                 int64_t dims) {
  const int ty = tile_ty();
  const int tx = tile_tx();
  const int count = dims < RowChunk::kDims ? static_cast<int>(dims) : RowChunk::kDims;
  SVGDX_UNROLL_BY(4)
  for (int d = 0; d < count; ++d) {
    T row[Mode::kRowArrays][Mode::kMicroRows];
    T col[Mode::kColArrays][4];
    SVGDX_UNROLL
    for (int a = 0; a < Mode::kRowArrays; ++a) {
      Micro<T, Mode::kMicroRows>::read(row[a], rows + a * RowChunk::kSize + d * RowChunk::kStride, ty, 16);
    }
    SVGDX_UNROLL
    for (int a = 0; a < Mode::kColArrays; ++a) {
      Micro<T, 4>::read(col[a], cols + a * ColChunk::kSize + d * ColChunk::kStride, tx, 16);
    }
    SVGDX_UNROLL
    for (int m = 0; m < Mode::kMicroRows; ++m) {
      SVGDX_UNROLL
      for (int n = 0; n < 4; ++n) {
        T r[Mode::kRowArrays];
        T c[Mode::kColArrays];
        SVGDX_UNROLL
        for (int a = 0; a < Mode::kRowArrays; ++a) r[a] = row[a][m];
        SVGDX_UNROLL
        for (int a = 0; a < Mode::kColArrays; ++a) c[a] = col[a][n];
        Mode::add(sums[m][n], r, c);
      }
    }
  }
}

// Occupancy is below one half (at least 1 block of 8 warps): with tiles of pairs in registers, each operand is read
// once and used four times, and a thread's many independent sums hide the latency in place of other warps.
template <class T, class Mode>
__global__ void __launch_bounds__(kLargeThreads, sizeof(T) == 4 ? 2 : 1)
    pair_sums_kernel(PairInputs<T> in, PairBlock block, T* out, int64_t first_block) {
  constexpr int kRows = 16 * Mode::kMicroRows;
  using RowChunk = ChunkTile<T, kRows>;
  using ColChunk = ChunkTile<T, int(kPairCols)>;
  SVGDX_SHARED_PACKS(T, rows, Mode::kRowArrays * RowChunk::kSize);
  SVGDX_SHARED_PACKS(T, cols, Mode::kColArrays * ColChunk::kSize);
  int64_t index = first_block + blockIdx.x;
  const int64_t col = block.by_col_tiles.split(index) * kPairCols;
  const int64_t row = block.by_row_tiles.split(index) * kRows;
  const int64_t batch = block.by_batches.split(index);
  const int64_t split = index;
  if (row >= block.rows || col >= block.cols) return;  // the padding is never read

  const int64_t dim = in.shape.dim;
  const int64_t d_end = min(dim, (split + 1) * block.dims_per_split);
  const int64_t row_at = ((block.batch0 + batch) * in.shape.rows + block.row0 + row) * dim;
  const int64_t col_at = ((block.batch0 + batch) * in.shape.cols + block.col0 + col) * dim;
  T sums[Mode::kMicroRows][4][Mode::kSums] = {};
  for (int64_t d = split * block.dims_per_split; d < d_end; d += RowChunk::kDims) {
    __syncthreads();
    SVGDX_UNROLL
    for (int a = 0; a < Mode::kRowArrays; ++a) {
      const Stored<T> from = stored_if(in, in.row[a], row_at + d);
      load_chunk<RowChunk, kRows>(rows + a * RowChunk::kSize, from, dim, block.rows - row, d_end - d, in.wide);
    }
    SVGDX_UNROLL
    for (int a = 0; a < Mode::kColArrays; ++a) {
      const Stored<T> from = stored_if(in, in.col[a], col_at + d);
      load_chunk<ColChunk, kPairCols>(cols + a * ColChunk::kSize, from, dim, block.cols - col, d_end - d, in.wide);
    }
    __syncthreads();
    add_chunk<Mode, T, RowChunk, ColChunk>(sums, rows, cols, d_end - d);
  }
  using MicroCols = Micro<T, 4>;
  SVGDX_UNROLL
  for (int s = 0; s < Mode::kSums; ++s) {
    T* plane = out + block.plane(split, s, Mode::kSums, batch);
    SVGDX_UNROLL
    for (int m = 0; m < Mode::kMicroRows; ++m) {
      const int64_t i = row + Micro<T, Mode::kMicroRows>::index(tile_ty(), 16, m);
      SVGDX_UNROLL
      for (int p = 0; p < 4 / MicroCols::kWidth; ++p) {
        typename MicroCols::Packed pack;
        SVGDX_UNROLL
        for (int w = 0; w < MicroCols::kWidth; ++w) pack.v[w] = sums[m][p * MicroCols::kWidth + w][s];
        const int64_t j = col + MicroCols::index(tile_tx(), 16, p * MicroCols::kWidth);
        *reinterpret_cast<typename MicroCols::Packed*>(plane + i * block.padded_cols + j) = pack;
      }
    }
  }
}

template <class T, class Mode>
void pair_sums(const char* op, const PairInputs<T>& in, const PairBlock& block, T* out, void* stream) {
  const int64_t row_tiles = block.padded_rows / (16 * Mode::kMicroRows);
  const int64_t col_tiles = block.padded_cols / kPairCols;
  PairBlock tiled = block;
  tiled.by_row_tiles = Divider(row_tiles);
  tiled.by_col_tiles = Divider(col_tiles);
  launch_blocks(op, row_tiles * col_tiles * block.batches * block.dim_splits, [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((pair_sums_kernel<T, Mode>), grid, kLargeThreads, 0, stream, in, tiled, out, first);
  });
}

}  // namespace svgdx::cuda
