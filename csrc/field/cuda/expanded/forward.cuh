// phi, trace and stein in float32 for dim > 128: the two products of the expanded sums on tensor cores,
//   X (X | s)^T  and  sum_j kappa_ij z_ij = sum_j kappa_ij Y_j + beta X_i sum_j kappa_ij,   Y = s - beta X,
// in which X = x - centre is formed where it is used, and kernel values between them. Pairs whose sums cancel leave the
// products, see kernel_values.cuh.
#pragma once

#include "field/cuda/expanded/kernel_values.cuh"
#include "field/cuda/expanded/product.cuh"
#include "field/cuda/finish.cuh"
#include "field/cuda/large_plan.cuh"

namespace svgdx::cuda {

struct ValueProductInputs {
  Expansion expansion;
  FieldArgs<float> args;
  const float* trace_sums;
  bool wide, completes;  // completes: the only part, which writes phi and the trace
  ProductGrid grid;
};

// Adds beta X_i sum_j kappa_ij, the pairs by differences and the row's pair with itself.
__device__ inline void add_first_part(Pack<float, 2>& z, const ValueProductInputs& in, const PairBlock& block,
                                      int64_t batch, int64_t row, int64_t d, float beta) {
  const FieldArgs<float>& args = in.args;
  const int64_t dim = args.shape.dim;
  const int64_t local = batch * block.rows + row;
  const int64_t b = block.batch0 + batch;
  const int64_t index = (b * args.shape.rows + block.row0 + row) * dim + d;
  const float kappa = in.expansion.kappa[local];
  Pack<float, 2> x{};
  Pack<float, 2> centre{};
  Pack<float, 2> own{};
  Pack<float, 2> redone{};
  if (kappa != 0) {
    load_pack(x, stored(args, args.query) + index, dim - d, in.wide);
    load_pack(centre, stored(args, args.x) + (b * args.shape.cols * dim + d), dim - d, in.wide);
  }
  if (args.self) load_pack(own, stored(args, args.score) + index, dim - d, in.wide);
  if (in.expansion.has_redone[local]) load_pack(redone, in.expansion.redone + local * dim + d, dim - d, in.wide);
  SVGDX_UNROLL
  for (int w = 0; w < 2; ++w) z.v[w] += own.v[w] + redone.v[w] + beta * kappa * (x.v[w] - centre.v[w]);
}

// Writes phi, or the update, from the complete sums; the tile of the first dimensions also writes the trace.
__device__ inline void complete(Pack<float, 2>& z, const ValueProductInputs& in, const PairBlock& block, int64_t batch,
                                int64_t row, int64_t d, float beta) {
  const FieldArgs<float>& args = in.args;
  const int64_t dim = args.shape.dim;
  const int64_t b = block.batch0 + batch;
  const int64_t index = b * args.shape.rows + block.row0 + row;
  const float inverse = 1.0f / static_cast<float>(args.shape.cols);
  if (d == 0) write_scalars(args, b, index, beta, in.trace_sums[batch * block.rows + row], 0.0f, 0.0f);
  if (args.phi == nullptr) return;
  Pack<float, 2> x{};
  if (args.step) load_pack(x, stored(args, args.query) + (index * dim + d), dim - d, in.wide);
  SVGDX_UNROLL
  for (int w = 0; w < 2; ++w) {
    z.v[w] *= inverse;
    if (args.step) z.v[w] = x.v[w] + args.step[b] * z.v[w];
  }
  store_pack(args.phi, args.format, index * dim + d, z, dim - d, in.wide);
}

// Kernel values times Y: 64 rows and 64 dimensions a block, over one part of the columns. Occupancy is below one half,
// as in pair_products_kernel. out: (parts, batches, rows, dim)
template <int Parts>
__global__ void __launch_bounds__(kExpandedThreads, 3)
    value_products_kernel(ValueProductInputs in, PairBlock block, const float* values, float* out,
                          int64_t first_block) {
  constexpr int kValues = kExpandedTile * kSummandStride;
  constexpr int kColumns = kExpandedChunk * kWideStride;
  constexpr int kSize = kValues + 2 * kColumns;
  SharedCarver carver;
  SVGDX_CARVE(carver, float, tiles, 2 * kSize);
  const ProductBlock at(in.grid, first_block + blockIdx.x, kExpandedTile, kExpandedTile);
  const int64_t d0 = at.d0, part = at.part, row0 = at.row0, batch = at.batch;
  if (row0 >= block.rows) return;
  const int64_t dim = in.args.shape.dim;
  const int64_t col_end = min(block.cols, (part + 1) * in.grid.cols_per_part);
  const float* kappa = values + block.plane(0, 0, ForwardPairs::kSums, batch) + row0 * block.padded_cols;
  const float beta = beta_of(in.args.bandwidth, block.batch0 + batch);
  const int64_t first = (block.batch0 + batch) * in.args.shape.cols * dim + d0;
  const StoredFloats x = stored(in.args, in.args.x) + first;
  const StoredFloats score = stored(in.args, in.args.score) + first;
  const auto start = [&](AsyncCopies& copies, int64_t j, float* to) {
    start_copies<kExpandedTile, kExpandedChunk, kSummandStride>(copies, to, kappa + j, block.padded_cols,
                                                                block.rows - row0, kExpandedChunk, true);
    start_copies<kExpandedChunk, kExpandedTile, kWideStride>(copies, to + kValues, x + j * dim, dim, col_end - j,
                                                             dim - d0, in.wide);
    start_copies<kExpandedChunk, kExpandedTile, kWideStride>(copies, to + kValues + kColumns, score + j * dim, dim,
                                                             col_end - j, dim - d0, in.wide);
  };
  const ExpandedWarp warp;
  ExpandedSums<Parts> sums;
  float centre[4];
  warp.load_centre(centre, x, dim - d0);
  const auto widen = [&](float* to, auto type) {
    SVGDX_UNROLL_BY(1)
    for (int array = 0; array < 2; ++array) {
      widen_rows<decltype(type), kExpandedChunk, kExpandedTile, kWideStride>(to + kValues + array * kColumns);
    }
  };
  const int64_t begin = part * in.grid.cols_per_part;
  for_each_chunk(tiles, kSize, begin, col_end, in.args.format, start, widen, [&](const float* tile, int count) {
    sums.begin();
    SVGDX_UNROLL_BY(1)
    for (int k = 0; k < count; k += 8) {
      Split<4, Parts> a[2];
      SVGDX_UNROLL
      for (int m = 0; m < 2; ++m) {
        SVGDX_UNROLL
        for (int e = 0; e < 4; ++e) a[m].set(e, tile[warp.place(m, e, k)]);
      }
      SVGDX_UNROLL
      for (int n = 0; n < 4; ++n) {
        Split<2, Parts> b;
        SVGDX_UNROLL
        for (int e = 0; e < 2; ++e) {
          const int at = kValues + (k + warp.t + 4 * e) * kWideStride + warp.col0 + 8 * n + warp.g;
          const float y = tile[kColumns + at] - beta * (tile[at] - centre[n]);
          b.set(e, fabsf(y) < kMostSummand ? y : 0.0f);  // one that is larger meets kernel values of 0 only
        }
        sums.add(n, a, b);
      }
    }
    sums.end();
  });
  float* plane = out + (part * block.batches + batch) * block.rows * dim;
  ExpandedWarp::for_each_two([&](int m, int n, int e) {
    const int64_t row = row0 + warp.row(m, e);
    const int64_t d = d0 + warp.col(n, e);
    if (row >= block.rows || d >= dim) return;
    Pack<float, 2> pack;
    pack.v[0] = sums.total[m][n][e];
    pack.v[1] = sums.total[m][n][e + 1];
    if (part == 0) add_first_part(pack, in, block, batch, row, d, beta);
    if (in.completes) {
      complete(pack, in, block, batch, row, d, beta);
    } else {
      store_pack(plane + row * dim + d, pack, dim - d, in.wide);
    }
  });
}

inline void value_products(const char* op, ValueProductInputs in, const PairBlock& block, const float* values,
                           float* out, void* stream) {
  const int64_t blocks =
      in.grid.divide(ceil_div(in.args.shape.dim, kExpandedTile), ceil_div(block.rows, kExpandedTile));
  constexpr size_t kShared =
      carve_bytes<float>(2 * (kExpandedTile * kSummandStride + 2 * kExpandedChunk * kWideStride));
  launch_blocks(op, blocks * block.batches, [&](unsigned grid, int64_t first) {
    dispatch_parts(in.args.tf32, [&](auto parts) {
      constexpr int Parts = decltype(parts)::value;
      SVGDX_LAUNCH((value_products_kernel<Parts>), grid, kExpandedThreads, kShared, stream, in, block, values, out,
                   first);
    });
  });
}

// Worth its launches for a tile of columns; the columns have to fit one block of pairs.
inline bool is_expanded(const FieldShape& shape) { return shape.cols >= kExpandedTile && shape.cols <= kMostCols; }

// Places the expansion of one block of pairs in scratch, or counts its elements.
inline int64_t place_expansion(Expansion& expansion, const LargePlan& plan, int64_t dim, float* from) {
  ScratchPlaces places{from};
  const int64_t parts = plan.dim_splits * plan.batches;
  expansion.norms.row_norm = places.take(parts * plan.padded_rows);
  expansion.norms.col_norm = places.take(parts * plan.padded_cols);
  expansion.norms.col_weight = places.take(parts * plan.padded_cols);
  expansion.kappa = places.take(plan.batches * plan.rows);
  expansion.has_redone = reinterpret_cast<int*>(places.take(plan.batches * plan.rows));
  expansion.redone = places.take(plan.batches * plan.rows * dim);
  return places.used;
}

}  // namespace svgdx::cuda
