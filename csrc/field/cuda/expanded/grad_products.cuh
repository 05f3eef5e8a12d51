// Weights of pairs times columns in the backward pass: a row's sums `both` and `score`
// (field/cuda/fused/grad_pairs.cuh).
#pragma once

#include "field/cuda/expanded/grad_weights.cuh"

namespace svgdx::cuda {

struct GradProductInputs {
  FieldGradArgs<float> args;
  GradExpansion expansion;
  const float* centre;  // of the first batch entry
  int64_t centre_at;    // from one batch entry to the next
  bool wide;
  bool first;  // write the outputs instead of adding to them
  ProductGrid grid;
};

// Chunks of 16 columns: two matrices of weights and three arrays of columns are double-buffered in 48 KiB.
constexpr int kGradChunk = 16;
// Rows of 16 summands, shifted by four banks: lanes (g, t) that read number t of row g use every bank once.
constexpr int kGradStride = kGradChunk + 4;

// A tile in shared memory.
struct GradProductTile {
  static constexpr int kMatrix = kExpandedTile * kGradStride;
  static constexpr int kColumns = kGradChunk * kWideStride;
  static constexpr int kLean = kMatrix, kX = 2 * kMatrix, kScore = kX + kColumns, kGrad = kScore + kColumns;
  static constexpr int kH = kGrad + kColumns, kSize = kH + kGradChunk;
};

// A number that is larger meets weights of 0 only.
__device__ inline float bounded(float v) { return fabsf(v) < kMostSummand ? v : 0.0f; }

// A warp's 32 x 32 sums of `both` and `score` over columns. Sums leave tensor cores, which round towards zero, after
// eight columns.
template <int Parts>
struct GradProductSums {
  float both[2][4][4] = {};
  float score[2][4][4] = {};

  // Adds eight columns, from k on. h: unsigned gradients of the rows' traces; `sign` times those of the columns are in
  // the tile.
  __device__ void add(const ExpandedWarp& warp, const float* tile, int k, const float (&h)[2][2],
                      const float (&centre)[4], float signed_beta, bool has_score) {
    using Tile = GradProductTile;
    Split<4, Parts> kappa[2];
    Split<4, Parts> minus_kappa_h[2];
    Split<4, Parts> lean[2];
    SVGDX_UNROLL
    for (int m = 0; m < 2; ++m) {
      SVGDX_UNROLL
      for (int e = 0; e < 4; ++e) {
        const int at = warp.place<kGradStride>(m, e, k);
        kappa[m].set(e, tile[at]);
        minus_kappa_h[m].set(e, -tile[at] * h[m][e % 2]);
        lean[m].set(e, tile[Tile::kLean + at]);
      }
    }
    const float beta_h[2] = {signed_beta * tile[Tile::kH + k + warp.t], signed_beta * tile[Tile::kH + k + warp.t + 4]};
    SVGDX_UNROLL
    for (int n = 0; n < 4; ++n) {
      Split<2, Parts> x;
      Split<2, Parts> s;
      Split<2, Parts> y;
      SVGDX_UNROLL
      for (int e = 0; e < 2; ++e) {
        const int at = (k + warp.t + 4 * e) * kWideStride + warp.col0 + 8 * n + warp.g;
        const float value = tile[Tile::kX + at] - centre[n];
        x.set(e, bounded(value));
        s.set(e, bounded(tile[Tile::kScore + at]));
        y.set(e, bounded(tile[Tile::kGrad + at] - beta_h[e] * value));
      }
      SVGDX_UNROLL
      for (int m = 0; m < 2; ++m) {
        add_product(both[m][n], minus_kappa_h[m], s, lean[m], x);
        if (has_score) add_product(score[m][n], kappa[m], y);
      }
    }
  }

 private:
  __device__ static void add_product(float (&total)[4], const Split<4, Parts>& a, const Split<2, Parts>& b) {
    float sum[4] = {};
    mma_split(sum, a, b);
    SVGDX_UNROLL
    for (int e = 0; e < 4; ++e) total[e] += sum[e];
  }
  __device__ static void add_product(float (&total)[4], const Split<4, Parts>& a, const Split<2, Parts>& b,
                                     const Split<4, Parts>& c, const Split<2, Parts>& d) {
    float sum[4] = {};
    mma_split(sum, a, b);
    mma_split(sum, c, d);
    SVGDX_UNROLL
    for (int e = 0; e < 4; ++e) total[e] += sum[e];
  }
};

// Adds what a block's pairs contribute beyond the products: X_i times the sums of their weights, and pairs by
// differences.
__device__ inline void add_rest(Pack<float, 2>& both, Pack<float, 2>& score, const GradProductInputs& in,
                                const PairBlock& block, int64_t batch, int64_t row, int64_t d, float beta) {
  const FieldGradArgs<float>& args = in.args;
  const int64_t dim = args.shape.dim;
  const int64_t b = block.batch0 + batch;
  const int64_t all = block.batches * block.padded_rows;
  const int64_t local = batch * block.padded_rows + row;
  const float lean = in.expansion.row_sums[local];
  const float kappa_h = in.expansion.row_sums[all + local];
  Pack<float, 2> x{};
  Pack<float, 2> centre{};
  if (lean != 0 || kappa_h != 0) {
    const int64_t index = (b * args.shape.rows + block.row0 + row) * dim + d;
    load_pack(x, stored(args, args.row_x) + index, dim - d, in.wide);
    load_pack(centre, stored(args, in.centre) + (b * in.centre_at + d), dim - d, in.wide);
  }
  Pack<float, 2> redone[2] = {};
  if (in.expansion.has_redone[local]) {
    load_pack(redone[0], in.expansion.redone + local * dim + d, dim - d, in.wide);
    load_pack(redone[1], in.expansion.redone + (all + local) * dim + d, dim - d, in.wide);
  }
  SVGDX_UNROLL
  for (int w = 0; w < 2; ++w) {
    const float value = x.v[w] - centre.v[w];
    both.v[w] += redone[0].v[w] - value * lean;
    score.v[w] += redone[1].v[w] + value * (beta * kappa_h);
  }
}

// 64 rows and 64 dimensions a block, over one part of the columns. Occupancy is below one half: a warp's 2 x 32 x 32
// sums stay in registers. out: (parts, 2, batches, rows, dim), sums for x as BackwardProduct forms them, then `score`.
template <int Parts>
__global__ void __launch_bounds__(kExpandedThreads, 2)
    grad_products_kernel(GradProductInputs in, PairBlock block, float* out, int64_t first_block) {
  using Tile = GradProductTile;
  SharedCarver carver;
  SVGDX_CARVE(carver, float, tiles, 2 * Tile::kSize);
  const ProductBlock at(in.grid, first_block + blockIdx.x, kExpandedTile, kExpandedTile);
  const int64_t d0 = at.d0, part = at.part, row0 = at.row0, batch = at.batch;
  if (row0 >= block.rows) return;
  const FieldGradArgs<float>& args = in.args;
  const int64_t dim = args.shape.dim;
  const int64_t b = block.batch0 + batch;
  const float sign = trace_sign(args);
  const float beta = beta_of(args.bandwidth, b);
  const bool has_score = args.col_grad_phi != nullptr || args.col_grad_trace != nullptr;
  const StoredFloats centres = stored(args, in.centre) + (b * in.centre_at + d0);
  const int64_t first_col = b * args.shape.cols + block.col0;
  const int64_t col_end = min(block.cols, (part + 1) * in.grid.cols_per_part);
  const int64_t matrix = batch * block.matrix() + row0 * block.padded_cols;
  const auto start = [&](AsyncCopies& copies, int64_t j, float* to) {
    const auto columns = [&](int place, const float* from) {
      start_copies<kGradChunk, kExpandedTile, kWideStride>(
          copies, to + place, from == nullptr ? centres : stored(args, from) + ((first_col + j) * dim + d0), dim,
          from == nullptr ? 0 : col_end - j, dim - d0, in.wide);
    };
    start_copies<kExpandedTile, kGradChunk, kGradStride>(copies, to, in.expansion.kappa + matrix + j, block.padded_cols,
                                                         block.rows - row0, kGradChunk, true);
    start_copies<kExpandedTile, kGradChunk, kGradStride>(copies, to + Tile::kLean, in.expansion.lean + matrix + j,
                                                         block.padded_cols, block.rows - row0, kGradChunk, true);
    columns(Tile::kX, args.col_x);
    columns(Tile::kScore, args.col_score);
    columns(Tile::kGrad, args.col_grad_phi);
    const bool has_h = args.col_grad_trace != nullptr;
    start_copies<1, kGradChunk, kGradChunk>(copies, to + Tile::kH,
                                            has_h ? args.col_grad_trace + first_col + j : in.expansion.kappa, 0, has_h,
                                            col_end - j, false);
  };
  const ExpandedWarp warp;
  GradProductSums<Parts> sums;
  float centre[4];
  warp.load_centre(centre, centres, dim - d0);
  float h[2][2];
  SVGDX_UNROLL
  for (int m = 0; m < 2; ++m) {
    SVGDX_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int64_t row = row0 + warp.row(m, 2 * half);
      const bool inside = row < block.rows && args.row_grad_trace != nullptr;
      h[m][half] = inside ? sign * args.row_grad_trace[b * args.shape.rows + block.row0 + row] : 0.0f;
    }
  }
  const auto widen = [&](float* to, auto type) {
    SVGDX_UNROLL_BY(1)
    for (int place = Tile::kX; place < Tile::kH; place += Tile::kColumns) {
      widen_rows<decltype(type), kGradChunk, kExpandedTile, kWideStride>(to + place);
    }
  };
  const int64_t begin = part * in.grid.cols_per_part;
  for_each_chunk<kGradChunk>(tiles, Tile::kSize, begin, col_end, args.format, start, widen,
                             [&](const float* tile, int count) {
                               SVGDX_UNROLL_BY(1)
                               for (int k = 0; k < count; k += 8)
                                 sums.add(warp, tile, k, h, centre, sign * beta, has_score);
                             });
  const int64_t plane = block.batches * args.shape.rows * dim;
  float* to = out + part * 2 * plane + (batch * args.shape.rows + block.row0) * dim;
  ExpandedWarp::for_each_two([&](int m, int n, int e) {
    const int64_t row = row0 + warp.row(m, e);
    const int64_t d = d0 + warp.col(n, e);
    if (row >= block.rows || d >= dim) return;
    Pack<float, 2> both;
    Pack<float, 2> score;
    SVGDX_UNROLL
    for (int w = 0; w < 2; ++w) {
      both.v[w] = sums.both[m][n][e + w];
      score.v[w] = sums.score[m][n][e + w];
    }
    if (part == 0) add_rest(both, score, in, block, batch, row, d, beta);
    float* place = to + row * dim + d;
    Pack<float, 2> before[2] = {};
    if (!in.first) {
      load_pack(before[0], place, dim - d, in.wide);
      load_pack(before[1], place + plane, dim - d, in.wide);
    }
    SVGDX_UNROLL
    for (int w = 0; w < 2; ++w) {
      both.v[w] += before[0].v[w] - score.v[w];
      score.v[w] += before[1].v[w];
    }
    store_pack(place, both, dim - d, in.wide);
    store_pack(place + plane, score, dim - d, in.wide);
  });
}

inline void grad_products(const char* op, GradProductInputs in, const PairBlock& block, float* out, void* stream) {
  const int64_t blocks =
      in.grid.divide(ceil_div(in.args.shape.dim, kExpandedTile), ceil_div(block.rows, kExpandedTile));
  constexpr size_t kShared = carve_bytes<float>(2 * GradProductTile::kSize);
  launch_blocks(op, blocks * block.batches, [&](unsigned grid, int64_t first) {
    dispatch_parts(in.args.tf32, [&](auto parts) {
      constexpr int Parts = decltype(parts)::value;
      SVGDX_LAUNCH((grad_products_kernel<Parts>), grid, kExpandedThreads, kShared, stream, in, block, out, first);
    });
  });
}

}  // namespace svgdx::cuda
