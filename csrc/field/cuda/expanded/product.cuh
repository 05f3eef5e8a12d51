// Products of pairs on tensor cores. A block of four warps forms 64 x 64 sums, a warp 32 x 32.
#pragma once

#include "common/cuda/mma.cuh"
#include "common/cuda/warp.cuh"
#include "field/args.h"
#include "field/cuda/expanded/chunks.cuh"
#include "field/cuda/pairs.cuh"

namespace svgdx::cuda {

// X = x - centre, with the first particle of a batch entry as the centre. Sums over the dimensions of one split,
// (dim_splits, batches, padded rows or columns):
struct PairNorms {
  float* row_norm;    // |X|^2
  float* row_grad;    // X . G, in the backward pass; NaN if a number of G is too large for the products
  float* col_norm;    // |X|^2; NaN if a number is too large for the products
  float* col_weight;  // X . s

  __device__ static int64_t part(const PairBlock& block, int64_t split, int64_t batch, int64_t padded) {
    return (split * block.batches + batch) * padded;
  }
};

// What the passes over the pairs of some batch entries hand on, in scratch:
struct Expansion {
  PairNorms norms;
  float* kappa;     // sum of the kernel values of a row (batches, rows)
  int* has_redone;  // (batches, rows): whether a row has pairs whose expanded sums cancel
  float* redone;    // what these pairs add to the row's sum over columns, by differences (batches, rows, dim)
};

// So that no product overflows: in the backward pass, those of three numbers.
constexpr float kMostSummand = 1e30f;
constexpr float kMostGradSummand = 1e12f;

// A warp's 32 x 32 sums: those on tensor cores, which round towards zero, of a few summands, and in ordinary registers
// those of all before.
template <int Parts>
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
  __device__ void add(int n, const Split<4, Parts> (&a)[2], const Split<2, Parts>& b) {
    SVGDX_UNROLL
    for (int m = 0; m < 2; ++m) mma_split(chunk[m][n], a[m], b);
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

  // Calls f(m, n, e) for every pair of a lane's sums that are neighbours in a row, e and e + 1.
  template <class F>
  __device__ static void for_each_two(F f) {
    SVGDX_UNROLL
    for (int m = 0; m < 2; ++m) {
      SVGDX_UNROLL
      for (int n = 0; n < 4; ++n) {
        SVGDX_UNROLL
        for (int e = 0; e < 4; e += 2) f(m, n, e);
      }
    }
  }
  // The centre's numbers in a lane's columns of an operand B; `from` has `count` numbers of the tile's columns.
  __device__ void load_centre(float (&centre)[4], const StoredFloats& from, int64_t count) const {
    SVGDX_UNROLL
    for (int n = 0; n < 4; ++n) {
      const int d = col0 + 8 * n + g;
      centre[n] = d < count ? from[d] : 0.0f;
    }
  }

  // Number e of an operand A in a tile [row][summand], of the summands from k on.
  template <int Stride = kSummandStride>
  __device__ int place(int m, int e, int k) const {
    return (row0 + 16 * m + g + e % 2 * 8) * Stride + k + t + e / 2 * 4;
  }
};

// Norms of a block's rows or columns and their products with other numbers of theirs: two threads for each.
struct ExpandedNorms {
  float norm = 0, product = 0;

  // Calls add(norm, product, X, other) for each summand of a chunk, with the tiles of x, the others and the centre.
  template <class Add>
  __device__ void add(const float* x, const float* other, const float* centre, Add add_number) {
    const int k = threadIdx.x % 2 * (kExpandedChunk / 2);
    const int at = int(threadIdx.x) / 2 * kSummandStride + k;
    SVGDX_UNROLL_BY(1)
    for (int i = 0; i < kExpandedChunk / 2; i += 4) {
      const Pack<float, 4> numbers = load_four(x + at + i);
      const Pack<float, 4> others = load_four(other + at + i);
      const Pack<float, 4> c = load_four(centre + k + i);
      SVGDX_UNROLL
      for (int w = 0; w < 4; ++w) add_number(norm, product, numbers.v[w] - c.v[w], others.v[w]);
    }
  }
  __device__ void write(float* to_norm, float* to_product) {
    norm = lane_sum(norm, 1, 2);
    product = lane_sum(product, 1, 2);
    if (threadIdx.x % 2 != 0) return;
    if (to_norm != nullptr) to_norm[threadIdx.x / 2] = norm;
    if (to_product != nullptr) to_product[threadIdx.x / 2] = product;
  }
};

// X . X and X . s of a block of pairs, in the planes of its first and second sum (pairs.cuh), with norms and weights;
// in the backward pass also G . X and G . s, in the next two planes.
struct PairProductInputs {
  Format format;  // of all particles
  bool tf32;
  const float* row[2];  // x and G, (batch, rows, dim); null means zeros for all but x
  const float* col_x;   // (batch, cols, dim)
  const float* col_score;
  const float* centre;                 // of the first batch entry
  int64_t rows, cols, dim, centre_at;  // centre_at: from one batch entry to the next
  PerBatch<float> bandwidth;
  PairNorms norms;
  bool wide;
};

// Occupancy is below one half: a warp's 2 x 32 x 32 sums stay in registers, and each number that it reads from shared
// memory is used for 32 pairs. Arrays: of the rows, each by blocks of its own, so that a backward pass needs no more
// registers.
template <int Arrays, int Parts>
__global__ void __launch_bounds__(kExpandedThreads, 2)
    pair_products_kernel(PairProductInputs in, PairBlock block, float* out, int64_t first_block) {
  constexpr int kSize = kExpandedTile * kSummandStride;
  constexpr int kTiles = Arrays == 1 ? 3 : 4;  // rows, columns and their scores, and x of rows of G
  constexpr int kAll = kTiles * kSize + kExpandedChunk;
  constexpr float kMost = Arrays == 1 ? kMostSummand : kMostGradSummand;
  SharedCarver carver;
  SVGDX_CARVE(carver, float, tiles, 2 * kAll);
  int64_t index = first_block + blockIdx.x;
  const int64_t col = block.by_col_tiles.split(index) * kExpandedTile;
  const int64_t row = block.by_row_tiles.split(index) * kExpandedTile;
  const int64_t batch = block.by_batches.split(index);
  const bool is_grad = Arrays == 2 && index % 2 == 1;
  const int64_t split = Arrays == 2 ? index / 2 : index;
  if (row >= block.rows || col >= block.cols) return;  // the padding is never read
  const int64_t dim = in.dim;
  const int64_t d_end = min(dim, (split + 1) * block.dims_per_split);
  const int64_t b = block.batch0 + batch;
  const int64_t rows = (b * in.rows + block.row0 + row) * dim;
  const int64_t cols = (b * in.cols + block.col0 + col) * dim;
  const StoredFloats centre = stored(in, in.centre) + b * in.centre_at;
  const float beta = beta_of(in.bandwidth, b);
  // The first tile of columns also forms the norms of rows, or X . G, the first tile of rows those of columns.
  const bool has_row_norms = col == 0;
  const bool has_col_norms = row == 0 && !is_grad;
  const auto start = [&](AsyncCopies& copies, int64_t d, float* to) {
    const auto tile = [&](int place, const float* from, int64_t at, int64_t count) {
      start_copies<kExpandedTile, kExpandedChunk, kSummandStride>(
          copies, to + place * kSize, from == nullptr ? centre : stored(in, from) + (at + d), dim,
          from == nullptr ? 0 : count, d_end - d, in.wide);
    };
    tile(0, in.row[is_grad], rows, block.rows - row);
    tile(1, in.col_x, cols, block.cols - col);
    tile(2, in.col_score, cols, block.cols - col);
    if (is_grad && has_row_norms) tile(3, in.row[0], rows, block.rows - row);
    start_copies<1, kExpandedChunk, kExpandedChunk>(copies, to + kTiles * kSize, centre + d, dim, 1, d_end - d,
                                                    in.wide);
  };
  const ExpandedWarp warp;
  ExpandedSums<Parts> x_x;
  ExpandedSums<Parts> x_s;
  ExpandedNorms row_norms;
  ExpandedNorms col_norms;
  const int64_t d_begin = split * block.dims_per_split;
  const auto widen = [&](float* to, auto type) {
    using S = decltype(type);
    SVGDX_UNROLL_BY(1)
    for (int tile = 0; tile < (is_grad && has_row_norms ? 4 : 3); ++tile) {
      widen_rows<S, kExpandedTile, kExpandedChunk, kSummandStride>(to + tile * kSize);
    }
    widen_rows<S, 1, kExpandedChunk, kExpandedChunk>(to + kTiles * kSize);
  };
  for_each_chunk(tiles, kAll, d_begin, d_end, in.format, start, widen, [&](const float* tile, int count) {
    const float* centres = tile + kTiles * kSize;
    if (has_col_norms) {
      col_norms.add(tile + kSize, tile + 2 * kSize, centres, [&](float& norm, float& product, float x, float s) {
        // NaN, so that no pair of this particle takes part in the products.
        const bool fits = fabsf(s) + (Arrays == 1 ? beta : 1 + beta) * fabsf(x) < kMost;
        norm += fits ? x * x : not_a_number<float>();
        product += x * s;
      });
    }
    if (has_row_norms) {
      row_norms.add(tile + (is_grad ? 3 : 0) * kSize, tile, centres,
                    [&](float& norm, float& product, float x, float g) {
                      norm += x * x;
                      if (is_grad) product += fabsf(x) + fabsf(g) < kMost ? x * g : not_a_number<float>();
                    });
    }
    SVGDX_UNROLL_BY(1)
    for (int k = 0; k < count; k += 8) {
      if (k % 16 == 0) {
        x_x.begin();
        x_s.begin();
      }
      const float c[2] = {centres[k + warp.t], centres[k + warp.t + 4]};
      Split<4, Parts> a[2];
      SVGDX_UNROLL
      for (int m = 0; m < 2; ++m) {
        SVGDX_UNROLL
        for (int e = 0; e < 4; ++e) {
          const float number = tile[warp.place(m, e, k)];
          a[m].set(e, is_grad ? number : number - c[e / 2]);
        }
      }
      SVGDX_UNROLL
      for (int n = 0; n < 4; ++n) {
        const int at = (warp.col0 + 8 * n + warp.g) * kSummandStride + k + warp.t;
        Split<2, Parts> x;
        Split<2, Parts> s;
        SVGDX_UNROLL
        for (int e = 0; e < 2; ++e) {
          x.set(e, tile[kSize + at + 4 * e] - c[e]);
          s.set(e, tile[2 * kSize + at + 4 * e]);
        }
        x_x.add(n, a, x);
        x_s.add(n, a, s);
      }
      if (k % 16 == 8 || k + 8 >= count) {
        x_x.end();
        x_s.end();
      }
    }
  });
  if (has_row_norms) {
    const int64_t at = PairNorms::part(block, split, batch, block.padded_rows) + row;
    row_norms.write(is_grad ? nullptr : in.norms.row_norm + at, is_grad ? in.norms.row_grad + at : nullptr);
  }
  if (has_col_norms) {
    const int64_t at = PairNorms::part(block, split, batch, block.padded_cols) + col;
    col_norms.write(in.norms.col_norm + at, in.norms.col_weight + at);
  }
  SVGDX_UNROLL
  for (int sum = 0; sum < 2; ++sum) {
    float* plane = out + block.plane(split, 2 * is_grad + sum, 2 * Arrays, batch);
    ExpandedWarp::for_each_two([&](int m, int n, int e) {
      const auto& total = sum == 0 ? x_x.total[m][n] : x_s.total[m][n];
      Pack<float, 2> pack;
      pack.v[0] = total[e];
      pack.v[1] = total[e + 1];
      const int64_t at = (row + warp.row(m, e)) * block.padded_cols + col + warp.col(n, e);
      *reinterpret_cast<Pack<float, 2>*>(plane + at) = pack;
    });
  }
}

template <int Arrays>
void pair_products(const char* op, const PairProductInputs& in, const PairBlock& block, float* out, void* stream) {
  PairBlock tiled = block;
  const int64_t row_tiles = block.padded_rows / kExpandedTile;
  const int64_t col_tiles = block.padded_cols / kExpandedTile;
  tiled.by_row_tiles = Divider(row_tiles);
  tiled.by_col_tiles = Divider(col_tiles);
  constexpr size_t kTiles = Arrays == 1 ? 3 : 4;
  constexpr size_t kShared = carve_bytes<float>(2 * (kTiles * kExpandedTile * kSummandStride + kExpandedChunk));
  launch_blocks(op, row_tiles * col_tiles * block.batches * block.dim_splits * Arrays,
                [&](unsigned grid, int64_t first) {
                  dispatch_parts(in.tf32, [&](auto parts) {
                    constexpr int Parts = decltype(parts)::value;
                    SVGDX_LAUNCH((pair_products_kernel<Arrays, Parts>), grid, kExpandedThreads, kShared, stream, in,
                                 tiled, out, first);
                  });
                });
}

}  // namespace svgdx::cuda
