// Products on tensor cores of matrices that pass through shared memory in chunks, two of which are there: one is copied
// while the other is used. A block of four warps forms 64 x 64 sums, a warp 32 x 32.
#pragma once

#include "common/cuda/async_copy.cuh"
#include "common/cuda/mma.cuh"
#include "common/cuda/warp.cuh"
#include "field/args.h"
#include "field/cuda/pairs.cuh"

namespace svgdx::cuda {

// X = x - centre, with the first particle of a batch entry as the centre. What the passes over the pairs of some batch
// entries hand on, in scratch:
struct Expansion {
  // The first three sum over the dimensions of one split: (dim_splits, batches, padded rows or columns).
  float* row_norm;    // |X|^2
  float* col_norm;    // the same; NaN if a number is too large for the products
  float* col_weight;  // X . s
  float* kappa;       // sum of the kernel values of a row (batches, rows)
  int* has_redone;    // (batches, rows): whether a row has pairs whose expanded sums cancel
  float* redone;      // what these pairs add to the row's sum over columns, by differences (batches, rows, dim)

  __device__ static int64_t part(const PairBlock& block, int64_t split, int64_t batch, int64_t padded) {
    return (split * block.batches + batch) * padded;
  }
};

constexpr float kMostSummand = 1e30f;  // so that no product overflows

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

// Passes over summands [begin, end) in chunks: calls start(copies, at, place) to copy the chunk at `at`, of `size`
// numbers, to one of two places in `tiles` while use(tile) computes with the one in the other.
template <class Start, class Use>
__device__ inline void for_each_chunk(float* tiles, int size, int64_t begin, int64_t end, Start start, Use use) {
  AsyncCopies copies;
  int now = 0;
  start(copies, begin, tiles);
  copies.commit();
  for (int64_t at = begin; at < end; at += kExpandedChunk) {
    if (at + kExpandedChunk < end) start(copies, at + kExpandedChunk, tiles + (1 - now) * size);
    copies.commit();
    copies.wait<1>();
    __syncthreads();
    use(tiles + now * size);
    __syncthreads();
    now = 1 - now;
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

  // Number e of an operand A in a tile [row][summand], of the summands from k on.
  __device__ int place(int m, int e, int k) const {
    return (row0 + 16 * m + g + e % 2 * 8) * kSummandStride + k + t + e / 2 * 4;
  }
};

// A lane's part of the norms and weights of the warp's rows and columns.
struct ExpandedNorms {
  float row[2][2] = {};  // of rows g and g + 8 of each 16
  float col[4] = {}, weight[4] = {};

  // Rows are those of the block's first column tile, columns those of its first row tile.
  __device__ void write(const Expansion& to, const PairBlock& block, const ExpandedWarp& warp, int64_t split,
                        int64_t batch, int64_t row_at, int64_t col_at) {
    SVGDX_UNROLL
    for (int m = 0; m < 2; ++m) {
      SVGDX_UNROLL
      for (int half = 0; half < 2; ++half) {
        const float norm = lane_sum(row[m][half], 1, 4);
        if (col_at + warp.col0 != 0 || warp.t != 0) continue;
        to.row_norm[Expansion::part(block, split, batch, block.padded_rows) + row_at + warp.row(m, 2 * half)] = norm;
      }
    }
    SVGDX_UNROLL
    for (int n = 0; n < 4; ++n) {
      const float norm = lane_sum(col[n], 1, 4);
      const float weights = lane_sum(weight[n], 1, 4);
      if (row_at + warp.row0 != 0 || warp.t != 0) continue;
      const int64_t at = Expansion::part(block, split, batch, block.padded_cols) + col_at + warp.col0 + 8 * n + warp.g;
      to.col_norm[at] = norm;
      to.col_weight[at] = weights;
    }
  }
};

// X . X and X . s of a block of pairs, in the planes of its first and second sum (pairs.cuh), with norms and weights.
struct PairProductInputs {
  FieldArgs<float> args;
  Expansion expansion;
  bool wide;
};

// Occupancy is below one half: a warp's 2 x 32 x 32 sums stay in registers, and each number that it reads from shared
// memory is used for 32 pairs.
static __global__ void __launch_bounds__(kExpandedThreads, 2)
    pair_products_kernel(PairProductInputs in, PairBlock block, float* out, int64_t first_block) {
  constexpr int kSize = kExpandedTile * kSummandStride;
  constexpr int kAll = 3 * kSize + kExpandedChunk;  // rows, columns and their scores, and the centre
  SharedCarver carver;
  SVGDX_CARVE(carver, float, tiles, 2 * kAll);
  int64_t index = first_block + blockIdx.x;
  const int64_t col = block.by_col_tiles.split(index) * kExpandedTile;
  const int64_t row = block.by_row_tiles.split(index) * kExpandedTile;
  const int64_t batch = block.by_batches.split(index);
  const int64_t split = index;
  if (row >= block.rows || col >= block.cols) return;  // the padding is never read
  const FieldShape& shape = in.args.shape;
  const int64_t dim = shape.dim;
  const int64_t d_end = min(dim, (split + 1) * block.dims_per_split);
  const int64_t first = (block.batch0 + batch) * shape.cols * dim;
  const float* rows = in.args.query + ((block.batch0 + batch) * shape.rows + block.row0 + row) * dim;
  const float* centre = in.args.x + first;
  const float* cols = centre + col * dim;
  const float* score = in.args.score + first + col * dim;
  const float beta = beta_of(in.args.bandwidth, block.batch0 + batch);
  const auto start = [&](AsyncCopies& copies, int64_t d, float* to) {
    start_copies<kExpandedTile, kExpandedChunk, kSummandStride>(copies, to, rows + d, dim, block.rows - row, d_end - d,
                                                                in.wide);
    start_copies<kExpandedTile, kExpandedChunk, kSummandStride>(copies, to + kSize, cols + d, dim, block.cols - col,
                                                                d_end - d, in.wide);
    start_copies<kExpandedTile, kExpandedChunk, kSummandStride>(copies, to + 2 * kSize, score + d, dim,
                                                                block.cols - col, d_end - d, in.wide);
    start_copies<1, kExpandedChunk, kExpandedChunk>(copies, to + 3 * kSize, centre + d, dim, 1, d_end - d, in.wide);
  };
  const ExpandedWarp warp;
  ExpandedSums x_x;
  ExpandedSums x_s;
  ExpandedNorms norms;
  const int64_t d_begin = split * block.dims_per_split;
  for_each_chunk(tiles, kAll, d_begin, d_end, start, [&](const float* tile) {
    SVGDX_UNROLL_BY(1)
    for (int k = 0; k < kExpandedChunk; k += 8) {
      if (k % 16 == 0) {
        x_x.begin();
        x_s.begin();
      }
      const float c[2] = {tile[3 * kSize + k + warp.t], tile[3 * kSize + k + warp.t + 4]};
      Split<4> a[2];
      SVGDX_UNROLL
      for (int m = 0; m < 2; ++m) {
        SVGDX_UNROLL
        for (int e = 0; e < 4; ++e) {
          const float value = tile[warp.place(m, e, k)] - c[e / 2];
          a[m].set(e, value);
          norms.row[m][e % 2] += value * value;
        }
      }
      SVGDX_UNROLL
      for (int n = 0; n < 4; ++n) {
        const int at = (warp.col0 + 8 * n + warp.g) * kSummandStride + k + warp.t;
        Split<2> x;
        Split<2> s;
        SVGDX_UNROLL
        for (int e = 0; e < 2; ++e) {
          const float value = tile[kSize + at + 4 * e] - c[e];
          const float score_value = tile[2 * kSize + at + 4 * e];
          x.set(e, value);
          s.set(e, score_value);
          // NaN, so that no pair of this particle takes part in the products.
          const bool fits = fabsf(score_value) + beta * fabsf(value) < kMostSummand;
          norms.col[n] += fits ? value * value : not_a_number<float>();
          norms.weight[n] += value * score_value;
        }
        x_x.add(n, a, x);
        x_s.add(n, a, s);
      }
      if (k % 16 == 8) {
        x_x.end();
        x_s.end();
      }
    }
  });
  norms.write(in.expansion, block, warp, split, batch, row, col);
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
  constexpr size_t kShared = carve_bytes<float>(2 * (3 * kExpandedTile * kSummandStride + kExpandedChunk));
  launch_blocks(op, row_tiles * col_tiles * block.batches * block.dim_splits, [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((pair_products_kernel), grid, kExpandedThreads, kShared, stream, in, tiled, out, first);
  });
}

}  // namespace svgdx::cuda
