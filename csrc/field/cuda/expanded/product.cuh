// Products on tensor cores of matrices that pass through shared memory in chunks, two of which are there: one is copied
// while the other is used. A block of four warps forms 64 x 64 sums, a warp 32 x 32.
#pragma once

#include "common/cuda/async_copy.cuh"
#include "common/cuda/mma.cuh"
#include "field/cuda/expanded/expand.cuh"
#include "field/cuda/pairs.cuh"

namespace svgdx::cuda {

constexpr int kExpandedThreads = 128;
constexpr int kExpandedTile = 64;   // rows and columns of a block
constexpr int kExpandedChunk = 32;  // summands

// Rows of 32 summands, shifted by four banks: lanes (g, t) that read number t of row g use every bank once.
constexpr int kSummandStride = kExpandedChunk + 4;
// 32 summands of rows of 64 numbers, shifted by eight banks: the same for number g of row t.
constexpr int kWideStride = kExpandedTile + 8;

// Starts to copy rows [0, Rows) of `Width` numbers; zeros beyond `count` and `width`.
template <int Rows, int Width, int Stride>
__device__ inline void start_copies(AsyncCopies& copies, float* to, const float* from, int64_t pitch, int64_t count,
                                    int64_t width, bool wide) {
  const int step = wide ? 4 : 1;
  const int packs = Width / step;
  for (int e = threadIdx.x; e < Rows * packs; e += kExpandedThreads) {
    const int row = e / packs;
    const int d = e % packs * step;
    const bool inside = row < count && d < width;
    const float* place = inside ? from + row * pitch + d : from;
    if (wide) {
      copies.copy<16>(to + row * Stride + d, place, inside);
    } else {
      copies.copy<4>(to + row * Stride + d, place, inside);
    }
  }
}

// A warp's 32 x 32 sums: those on tensor cores, which round towards zero, of a few summands, and in ordinary registers
// those of all before.
struct ExpandedSums {
  float total[2][4][4] = {};
  float chunk[2][4][4];

  __device__ void begin() {
    SVGDX_UNROLL
    for (int m = 0; m < 2; ++m) {
      SVGDX_UNROLL
      for (int n = 0; n < 4; ++n) {
        SVGDX_UNROLL
        for (int e = 0; e < 4; ++e) chunk[m][n][e] = 0;
      }
    }
  }
  __device__ void add(int n, const Split<4> (&a)[2], const Split<2>& b) {
    SVGDX_UNROLL
    for (int m = 0; m < 2; ++m) {
      mma_tf32(chunk[m][n], a[m].small, b.big);
      mma_tf32(chunk[m][n], a[m].big, b.small);
      mma_tf32(chunk[m][n], a[m].big, b.big);
    }
  }
  __device__ void end() {
    SVGDX_UNROLL
    for (int m = 0; m < 2; ++m) {
      SVGDX_UNROLL
      for (int n = 0; n < 4; ++n) {
        SVGDX_UNROLL
        for (int e = 0; e < 4; ++e) total[m][n][e] += chunk[m][n][e];
      }
    }
  }
};

// The warp's part of the block's tile, and the places of a lane's sums in the tile.
struct ExpandedWarp {
  int row0, col0, g, t;
  __device__ ExpandedWarp()
      : row0(int(threadIdx.x) / 64 * 32),
        col0(int(threadIdx.x) / 32 % 2 * 32),
        g(int(threadIdx.x) % 32 / 4),
        t(int(threadIdx.x) % 4) {}
  __device__ int row(int m, int e) const { return row0 + 16 * m + g + e / 2 * 8; }
  __device__ int col(int n, int e) const { return col0 + 8 * n + 2 * t + e % 2; }

  // The rows' eight summands from k on, from a tile [row][summand].
  __device__ void read_rows(Split<4> (&a)[2], const float* tile, int k) const {
    SVGDX_UNROLL
    for (int m = 0; m < 2; ++m) {
      SVGDX_UNROLL
      for (int e = 0; e < 4; ++e) {
        a[m].set(e, tile[(row0 + 16 * m + g + e % 2 * 8) * kSummandStride + k + t + e / 2 * 4]);
      }
    }
  }
};

// X . X and X . s of a block of pairs, in the planes of its first and second sum (pairs.cuh).
struct PairProductInputs {
  Expansion expansion;
  const float* score;
  int64_t rows, cols, dim;  // of the arrays
  bool wide;
};

// Occupancy is below one half: a warp's 2 x 32 x 32 sums stay in registers, and each number that it reads from shared
// memory is used for 32 pairs.
static __global__ void __launch_bounds__(kExpandedThreads, 2)
    pair_products_kernel(PairProductInputs in, PairBlock block, float* out, int64_t first_block) {
  constexpr int kSize = kExpandedTile * kSummandStride;
  SharedCarver carver;
  SVGDX_CARVE(carver, float, tiles, 2 * 3 * kSize);
  int64_t index = first_block + blockIdx.x;
  const int64_t col = block.by_col_tiles.split(index) * kExpandedTile;
  const int64_t row = block.by_row_tiles.split(index) * kExpandedTile;
  const int64_t batch = block.by_batches.split(index);
  const int64_t split = index;
  if (row >= block.rows || col >= block.cols) return;  // the padding is never read
  const int64_t d_end = min(in.dim, (split + 1) * block.dims_per_split);
  const float* rows = in.expansion.row + (batch * in.rows + block.row0 + row) * in.dim;
  const float* cols = in.expansion.col + (batch * in.cols + col) * in.dim;
  const float* score = in.score + ((block.batch0 + batch) * in.cols + col) * in.dim;
  AsyncCopies copies;
  const auto start = [&](int64_t d, float* to) {
    start_copies<kExpandedTile, kExpandedChunk, kSummandStride>(copies, to, rows + d, in.dim, block.rows - row,
                                                                d_end - d, in.wide);
    start_copies<kExpandedTile, kExpandedChunk, kSummandStride>(copies, to + kSize, cols + d, in.dim, block.cols - col,
                                                                d_end - d, in.wide);
    start_copies<kExpandedTile, kExpandedChunk, kSummandStride>(copies, to + 2 * kSize, score + d, in.dim,
                                                                block.cols - col, d_end - d, in.wide);
  };
  const ExpandedWarp warp;
  ExpandedSums x_x;
  ExpandedSums x_s;
  int now = 0;
  const int64_t d_begin = split * block.dims_per_split;
  start(d_begin, tiles);
  copies.commit();
  for (int64_t d = d_begin; d < d_end; d += kExpandedChunk) {
    if (d + kExpandedChunk < d_end) start(d + kExpandedChunk, tiles + (1 - now) * 3 * kSize);
    copies.commit();
    copies.wait<1>();
    __syncthreads();
    const float* tile = tiles + now * 3 * kSize;
    SVGDX_UNROLL_BY(1)
    for (int k = 0; k < kExpandedChunk; k += 8) {
      if (k % 16 == 0) {
        x_x.begin();
        x_s.begin();
      }
      Split<4> a[2];
      warp.read_rows(a, tile, k);
      SVGDX_UNROLL
      for (int n = 0; n < 4; ++n) {
        const int at = (warp.col0 + 8 * n + warp.g) * kSummandStride + k + warp.t;
        Split<2> x;
        Split<2> s;
        SVGDX_UNROLL
        for (int e = 0; e < 2; ++e) {
          x.set(e, tile[kSize + at + 4 * e]);
          s.set(e, tile[2 * kSize + at + 4 * e]);
        }
        x_x.add(n, a, x);
        x_s.add(n, a, s);
      }
      if (k % 16 == 8) {
        x_x.end();
        x_s.end();
      }
    }
    __syncthreads();
    now = 1 - now;
  }
  SVGDX_UNROLL
  for (int sum = 0; sum < 2; ++sum) {
    float* plane = out + block.plane(split, sum, ForwardPairs::kSums, batch);
    SVGDX_UNROLL
    for (int m = 0; m < 2; ++m) {
      SVGDX_UNROLL
      for (int n = 0; n < 4; ++n) {
        SVGDX_UNROLL
        for (int e = 0; e < 4; e += 2) {
          const auto& total = sum == 0 ? x_x.total[m][n] : x_s.total[m][n];
          Pack<float, 2> pack;
          pack.v[0] = total[e];
          pack.v[1] = total[e + 1];
          const int64_t at = (row + warp.row(m, e)) * block.padded_cols + col + warp.col(n, e);
          *reinterpret_cast<Pack<float, 2>*>(plane + at) = pack;
        }
      }
    }
  }
}

inline void pair_products(const char* op, const PairProductInputs& in, const PairBlock& block, float* out,
                          void* stream) {
  PairBlock tiled = block;
  const int64_t row_tiles = block.padded_rows / kExpandedTile;
  const int64_t col_tiles = block.padded_cols / kExpandedTile;
  tiled.by_row_tiles = Divider(row_tiles);
  tiled.by_col_tiles = Divider(col_tiles);
  constexpr size_t kShared = carve_bytes<float>(2 * 3 * kExpandedTile * kSummandStride);
  launch_blocks(op, row_tiles * col_tiles * block.batches * block.dim_splits, [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((pair_products_kernel), grid, kExpandedThreads, kShared, stream, in, tiled, out, first);
  });
}

}  // namespace svgdx::cuda
