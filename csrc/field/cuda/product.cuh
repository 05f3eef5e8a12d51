// Second half for large dimensions: multiplies matrices of kernel values with the columns, in tiles of kProductRows
// rows and kProductDims dimensions. The columns may be split into parts, each with its own output.
#pragma once

#include "field/cuda/large_plan.cuh"
#include "field/cuda/pairs.cuh"

namespace svgdx::cuda {

// Forward:  out0_i = sum_j a_ij z_ij, a = kappa.
struct ForwardProduct {
  static constexpr int kMatrices = 1, kColArrays = 2, kOuts = 1;
  static constexpr bool kUpstream = false;
  template <class T>
  __device__ static void add(T (&out)[1], T beta, const T (&m)[1], T x_i, const T (&col)[2], T, T) {
    const T r = x_i - col[0];
    out[0] += m[0] * col[1];
    out[0] += m[0] * beta * r;
  }
};

// Backward, with a = kappa and c the weight of r (backward_pair.cuh):
//   out0_i = -sum_j [ a_ij (g_j + h_i s_j) + c_ij r_ij ],   out1_i = sum_j a_ij (g_j + beta h_j r_ij).
// A factor beta follows a kernel value, which is 0 for pairs whose other factors may overflow.
struct BackwardProduct {
  static constexpr int kMatrices = 2, kColArrays = 3, kOuts = 2;
  static constexpr bool kUpstream = true;
  template <class T>
  __device__ static void add(T (&out)[2], T beta, const T (&m)[2], T x_i, const T (&col)[3], T h_i, T h_j) {
    const T r = x_i - col[0];
    out[0] -= m[0] * (col[2] + h_i * col[1]);
    out[0] -= m[1] * r;
    out[1] += m[0] * col[2];
    out[1] += m[0] * beta * h_j * r;
  }
};

// Inputs of the product; the matrices are in the first dimension split of the pair sums.
template <class T>
struct ProductInputs {
  FieldShape shape;
  Format format;
  const T* row_x;
  const T* col[3];
  const T* row_h;  // unsigned gradients of the trace, times `h_sign`
  const T* col_h;
  T h_sign;
  PerBatch<T> bandwidth;
  bool wide;
  bool first;  // write the outputs instead of adding to them
  int sums;
  ProductGrid grid;
};

template <class T>
struct ColumnChunk {
  static constexpr int kCols = 64 / int(sizeof(T));
  static constexpr int kWidth = 16 / int(sizeof(T));
  static constexpr int kStride = int(kProductDims);
  static constexpr int kSize = kCols * kStride;
};

// Loads columns [0, count) of a chunk and dimensions [0, dims) of the tile; zeros elsewhere. Layout
// [column][dimension].
template <class T>
__device__ inline void load_columns(T* tile, const Stored<T>& from, int64_t pitch, int64_t count, int64_t dims,
                                    bool wide) {
  using Chunk = ColumnChunk<T>;
  const int width = wide ? Chunk::kWidth : 1;
  const int packs = Chunk::kStride / width;
  for (int e = threadIdx.x; e < Chunk::kCols * packs; e += blockDim.x) {
    const int j = e / packs;
    const int d = e % packs * width;
    const bool inside = bool(from) && j < count && d < dims;
    if (wide) {
      Pack<T, Chunk::kWidth> pack{};
      if (inside) load_pack(pack, from + (j * pitch + d), Chunk::kWidth, true);
      *reinterpret_cast<Pack<T, Chunk::kWidth>*>(tile + j * Chunk::kStride + d) = pack;
    } else {
      tile[j * Chunk::kStride + d] = inside ? from[j * pitch + d] : T(0);
    }
  }
}

template <class Mode, class T>
struct ProductRows {
  T x[4][4];
  T h[4];
  T out[4][4][Mode::kOuts];
};

template <class Mode, class T>
__device__ inline void product_chunk(ProductRows<Mode, T>& rows, const T* matrices, const T* cols, const T* upstream,
                                     int count, int ty, int tx, T beta) {
  using Rows = ChunkTile<T, int(kProductRows)>;
  using Cols = ColumnChunk<T>;
  SVGDX_UNROLL_BY((Mode::kOuts == 1 ? 2 : 1))
  for (int j = 0; j < count; ++j) {
    T m[Mode::kMatrices][4];
    T col[Mode::kColArrays][4];
    SVGDX_UNROLL
    for (int a = 0; a < Mode::kMatrices; ++a) {
      Micro<T, 4>::read(m[a], matrices + a * Rows::kSize + j * Rows::kStride, ty, 32);
    }
    SVGDX_UNROLL
    for (int a = 0; a < Mode::kColArrays; ++a) {
      Micro<T, 4>::read(col[a], cols + a * Cols::kSize + j * Cols::kStride, tx, 8);
    }
    const T h_j = Mode::kUpstream ? upstream[j] : T(0);
    SVGDX_UNROLL
    for (int i = 0; i < 4; ++i) {
      SVGDX_UNROLL
      for (int n = 0; n < 4; ++n) {
        T weights[Mode::kMatrices];
        T c[Mode::kColArrays];
        SVGDX_UNROLL
        for (int a = 0; a < Mode::kMatrices; ++a) weights[a] = m[a][i];
        SVGDX_UNROLL
        for (int a = 0; a < Mode::kColArrays; ++a) c[a] = col[a][n];
        Mode::add(rows.out[i][n], beta, weights, rows.x[i][n], c, rows.h[i], h_j);
      }
    }
  }
}

template <class Mode, class T>
__device__ inline void load_product_rows(ProductRows<Mode, T>& rows, const ProductInputs<T>& in, const PairBlock& block,
                                         const ProductBlock& at, int ty, int tx) {
  constexpr int kWidth = Micro<T, 4>::kWidth;
  SVGDX_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int64_t local = at.row0 + Micro<T, 4>::index(ty, 32, i);
    const int64_t row = (block.batch0 + at.batch) * in.shape.rows + block.row0 + local;
    const bool inside = local < block.rows;
    rows.h[i] = Mode::kUpstream && inside && in.row_h != nullptr ? in.h_sign * in.row_h[row] : T(0);
    SVGDX_UNROLL
    for (int n = 0; n < 4; n += kWidth) {
      const int64_t d = at.d0 + Micro<T, 4>::index(tx, 8, n);
      typename Micro<T, 4>::Packed pack{};
      if (inside && d < in.shape.dim)
        load_pack(pack, stored(in, in.row_x) + (row * in.shape.dim + d), in.shape.dim - d, in.wide);
      SVGDX_UNROLL
      for (int w = 0; w < kWidth; ++w) rows.x[i][n + w] = pack.v[w];
    }
  }
}

// out: (parts, kOuts, batches, rows, dim)
template <class Mode, class T>
__device__ inline void store_product(const ProductRows<Mode, T>& rows, const ProductInputs<T>& in,
                                     const PairBlock& block, const ProductBlock& at, int ty, int tx, T* out) {
  constexpr int kWidth = Micro<T, 4>::kWidth;
  SVGDX_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int64_t local = at.row0 + Micro<T, 4>::index(ty, 32, i);
    if (local >= block.rows) continue;
    SVGDX_UNROLL
    for (int n = 0; n < 4; n += kWidth) {
      const int64_t d = at.d0 + Micro<T, 4>::index(tx, 8, n);
      if (d >= in.shape.dim) continue;
      SVGDX_UNROLL
      for (int o = 0; o < Mode::kOuts; ++o) {
        const int64_t plane = (at.part * Mode::kOuts + o) * block.batches + at.batch;
        T* to = out + (plane * block.rows + local) * in.shape.dim + d;
        typename Micro<T, 4>::Packed pack{};
        if (!in.first) load_pack(pack, to, in.shape.dim - d, in.wide);
        SVGDX_UNROLL
        for (int w = 0; w < kWidth; ++w) pack.v[w] += rows.out[i][n + w][o];
        store_pack(to, pack, in.shape.dim - d, in.wide);
      }
    }
  }
}

// Occupancy is below one half, as in pair_sums_kernel: a thread's 16 outputs and their operands stay in registers.
template <class T, class Mode>
__global__ void __launch_bounds__(kLargeThreads, Mode::kOuts * sizeof(T) <= 8 ? 2 : 1)
    product_kernel(ProductInputs<T> in, PairBlock block, const T* matrices, T* out, int64_t first_block) {
  using Rows = ChunkTile<T, int(kProductRows)>;
  using Cols = ColumnChunk<T>;
  SVGDX_SHARED_PACKS(T, weights, Mode::kMatrices * Rows::kSize);
  SVGDX_SHARED_PACKS(T, cols, Mode::kColArrays * Cols::kSize);
  SVGDX_SHARED(T, upstream, Cols::kCols);
  const ProductBlock at(in.grid, first_block + blockIdx.x, kProductDims, kProductRows);
  if (at.row0 >= block.rows) return;
  const int ty = threadIdx.x / 8;
  const int tx = threadIdx.x % 8;
  const T beta = beta_of(in.bandwidth, block.batch0 + at.batch);
  ProductRows<Mode, T> rows{};
  load_product_rows(rows, in, block, at, ty, tx);

  const int64_t col_end = min(block.cols, (at.part + 1) * in.grid.cols_per_part);
  for (int64_t j = at.part * in.grid.cols_per_part; j < col_end; j += Cols::kCols) {
    const int count = static_cast<int>(min(col_end - j, int64_t(Cols::kCols)));
    const int64_t col = (block.batch0 + at.batch) * in.shape.cols + block.col0 + j;
    __syncthreads();
    SVGDX_UNROLL
    for (int a = 0; a < Mode::kMatrices; ++a) {
      const T* from = matrices + block.plane(0, a, in.sums, at.batch) + at.row0 * block.padded_cols + j;
      load_chunk<Rows, kProductRows>(weights + a * Rows::kSize, from, block.padded_cols, block.rows - at.row0, count,
                                     true);
    }
    SVGDX_UNROLL
    for (int a = 0; a < Mode::kColArrays; ++a) {
      const Stored<T> from = stored_if(in, in.col[a], col * in.shape.dim + at.d0);
      load_columns(cols + a * Cols::kSize, from, in.shape.dim, count, in.shape.dim - at.d0, in.wide);
    }
    if (Mode::kUpstream && threadIdx.x < count) {
      upstream[threadIdx.x] = in.col_h == nullptr ? T(0) : in.h_sign * in.col_h[col + threadIdx.x];
    }
    __syncthreads();
    product_chunk(rows, weights, cols, upstream, count, ty, tx, beta);
  }
  store_product(rows, in, block, at, ty, tx, out);
}

template <class T, class Mode>
void product(const char* op, const ProductInputs<T>& in, const PairBlock& block, const T* matrices, T* out,
             void* stream) {
  ProductInputs<T> tiled = in;
  const int64_t blocks = tiled.grid.divide(ceil_div(in.shape.dim, kProductDims), block.padded_rows / kProductRows);
  launch_blocks(op, blocks * block.batches, [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((product_kernel<T, Mode>), grid, kLargeThreads, 0, stream, tiled, block, matrices, out, first);
  });
}

}  // namespace svgdx::cuda
