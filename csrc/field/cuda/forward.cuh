// phi, trace and stein in one pass over the columns, for dim <= 16: a row stays in the registers of 1 to 32
// neighbouring lanes, and columns pass through shared memory in tiles. More dimensions: fused/forward.cuh in float,
// forward_large.cuh otherwise.
#pragma once

#include <type_traits>

#include "common/cuda/tile.cuh"
#include "common/cuda/warp.cuh"
#include "field/cuda/finish.cuh"
#include "field/cuda/forward_large.cuh"
#include "field/cuda/fused/forward.cuh"
#include "field/cuda/plan.cuh"
#include "field/pair.h"

namespace svgdx::cuda {

constexpr int kForwardThreads = 128;
constexpr int64_t kForwardDims = 16;

// Resident blocks requested from the compiler: half of a multiprocessor's threads if the row's three vectors leave
// enough registers; more would spill.
template <class T, int P>
constexpr int kForwardBlocks = sizeof(T) == 4 ? (P <= 8 ? 8 : 4) : (P <= 8 ? 4 : 2);

template <class T, int P>
struct FieldRow {
  T x[P];
  T sum[P];     // sum_j kappa z
  T trace_sum;  // sum_j kappa (D - r.z)
};

// Adds one tile of columns; `self` is the column to exclude from the trace, or negative.
template <class Tile, class T, int P>
__device__ inline void field_tile(FieldRow<T, P>& row, const typename Tile::Packed* tile_x,
                                  const typename Tile::Packed* tile_s, int count, int lane, int lanes, int64_t self,
                                  T beta, T dim) {
  const T scale = beta * T(-0.5 * pair::kLog2E);
  SVGDX_UNROLL_BY((P * sizeof(T) <= 16 ? 2 : 1))
  for (int j = lane; j < count; j += lanes) {
    T z[P];
    T q = 0;
    T r_dot_s = 0;
    SVGDX_UNROLL
    for (int c = 0; c < Tile::kPacks; ++c) {
      const typename Tile::Packed x = Tile::read(tile_x, c, j);
      const typename Tile::Packed s = Tile::read(tile_s, c, j);
      SVGDX_UNROLL
      for (int w = 0; w < Tile::kWidth; ++w) {
        const int d = c * Tile::kWidth + w;
        const T r = row.x[d] - x.v[w];
        z[d] = s.v[w] + beta * r;
        q += r * r;
        r_dot_s += r * s.v[w];
      }
    }
    const T kappa = power_of_two(scale * q);
    if (kappa == T(0)) continue;  // z may have overflowed
    SVGDX_UNROLL
    for (int d = 0; d < P; ++d) row.sum[d] += kappa * z[d];
    row.trace_sum += j == self ? T(0) : pair::trace_term(kappa, dim, r_dot_s + beta * q);
  }
}

// Stores rows through shared memory, so that the stores are contiguous.
template <class Tile, class T, int P>
__device__ inline void field_write(FieldRow<T, P>& row, const FieldArgs<T>& args, const FieldBlock& block, int local,
                                   bool leader, T beta, typename Tile::Packed* tile, bool wide) {
  const int64_t dim = args.shape.dim;
  const int64_t first = block.batch * args.shape.rows + block.row0;
  const T inverse = T(1) / static_cast<T>(args.shape.cols);
  SVGDX_UNROLL
  for (int d = 0; d < P; ++d) row.sum[d] *= inverse;
  T score_dot = 0;
  T own = 0;
  if (args.stein != nullptr) {
    __syncthreads();
    load_rows<Tile>(tile, stored(args, args.score) + first * dim, block.rows, static_cast<int>(dim), wide);
    __syncthreads();
    if (leader) {
      T s[P];
      read_row<Tile>(tile, local, s);
      SVGDX_UNROLL
      for (int d = 0; d < P; ++d) {
        score_dot += s[d] * row.sum[d];
        own += s[d] * s[d];
      }
    }
  }
  if (leader) write_scalars(args, block.batch, first + local, beta, row.trace_sum, score_dot, own);
  if (args.phi == nullptr) return;
  if (args.step) {
    const T step = args.step[block.batch];
    SVGDX_UNROLL
    for (int d = 0; d < P; ++d) row.sum[d] = row.x[d] + step * row.sum[d];
  }
  __syncthreads();
  if (leader) write_row<Tile>(tile, local, row.sum);
  __syncthreads();
  store_rows<Tile>(tile, args.phi, args.format, first * dim, block.rows, static_cast<int>(dim));
}

// Occupancy is below one half if a row's three vectors need more than 64 registers (P = 16, and double): a few warps
// with P independent sums each hide more latency than many warps that spill.
template <class T, int P>
__global__ void __launch_bounds__(kForwardThreads, kForwardBlocks<T, P>)
    field_forward_kernel(FieldArgs<T> args, FieldPlan plan, T* partial, bool wide, int64_t first_block) {
  using Tile = RowTile<T, P, kForwardThreads>;
  using Packed = typename Tile::Packed;
  SVGDX_SHARED(Packed, tile_x, Tile::kSize);
  SVGDX_SHARED(Packed, tile_s, Tile::kSize);
  const FieldShape& shape = args.shape;
  const int dim = static_cast<int>(shape.dim);
  const FieldBlock block(plan, shape, first_block + blockIdx.x);
  const int local = threadIdx.x / plan.lanes;
  const int lane = threadIdx.x % plan.lanes;
  const bool active = local < block.rows;
  const T beta = beta_of(args.bandwidth, block.batch);

  clear_padding<Tile>(tile_x, dim);
  clear_padding<Tile>(tile_s, dim);
  load_rows<Tile>(tile_x, stored(args, args.query) + (block.batch * shape.rows + block.row0) * dim, block.rows, dim,
                  wide);
  __syncthreads();
  FieldRow<T, P> row{};
  if (active) read_row<Tile>(tile_x, local, row.x);

  const int64_t self = args.self ? block.row0 + local : int64_t(-1);
  for (int64_t j0 = block.col0; j0 < block.col1; j0 += kForwardThreads) {
    const int count = block.col1 - j0 < kForwardThreads ? static_cast<int>(block.col1 - j0) : kForwardThreads;
    __syncthreads();
    const int64_t from = (block.batch * shape.cols + j0) * dim;
    load_rows<Tile>(tile_x, stored(args, args.x) + from, count, dim, wide);
    load_rows<Tile>(tile_s, stored(args, args.score) + from, count, dim, wide);
    __syncthreads();
    if (active) field_tile<Tile>(row, tile_x, tile_s, count, lane, plan.lanes, self - j0, beta, static_cast<T>(dim));
  }
  SVGDX_UNROLL
  for (int d = 0; d < P; ++d) row.sum[d] = lane_sum(row.sum[d], 1, plan.lanes);
  row.trace_sum = lane_sum(row.trace_sum, 1, plan.lanes);

  const bool leader = active && lane == 0;
  if (partial == nullptr) return field_write<Tile>(row, args, block, local, leader, beta, tile_x, wide);
  // The sums over this part of the columns: (splits, batch, rows, dim), then those of the trace, (splits, batch, rows).
  const int64_t all_rows = shape.batch * shape.rows;
  const int64_t first = block.split * all_rows + block.batch * shape.rows + block.row0;
  if (leader) partial[plan.splits * all_rows * dim + first + local] = row.trace_sum;
  __syncthreads();
  if (leader) write_row<Tile>(tile_x, local, row.sum);
  __syncthreads();
  store_rows<Tile>(tile_x, partial + first * dim, block.rows, dim);
}

template <class T>
void field_forward_registers(const FieldArgs<T>& args, T* partial, void* stream) {
  const FieldPlan plan = plan_field(args.shape, kForwardThreads);
  const int64_t dim = args.shape.dim;
  const bool wide = all_aligned(dim, args.query, args.x, args.score);
  T* sums = plan.splits > 1 ? partial : nullptr;
  dispatch_dims(dim, [&](auto dims) {
    constexpr int P = decltype(dims)::kValue;
    launch_blocks("field_forward", plan.blocks, [&](unsigned grid, int64_t first) {
      SVGDX_LAUNCH((field_forward_kernel<T, P>), grid, kForwardThreads, 0, stream, args, plan, sums, wide, first);
    });
  });
  if (sums == nullptr) return;
  FieldSums<T> parts{sums,
                     sums + plan.splits * args.shape.batch * args.shape.rows * dim,
                     plan.splits,
                     plan.splits,
                     0,
                     0,
                     args.shape.batch,
                     args.shape.rows};
  finish_field(args, parts, stream);
}

template <class T>
int64_t field_forward_scratch(const FieldArgs<T>& args) {
  const FieldShape& shape = args.shape;
  if (shape.batch * shape.rows * shape.cols * shape.dim == 0) return 0;
  if (std::is_same_v<T, float> && is_fused(shape)) return fused_forward_bytes(shape);
  if (shape.dim > kForwardDims) return large_forward_bytes<T>(args);
  const int64_t splits = plan_field(shape, kForwardThreads).splits;
  return splits > 1 ? splits * shape.batch * shape.rows * (shape.dim + 1) * int64_t(sizeof(T)) : 0;
}

template <class T>
void field_forward(const FieldArgs<T>& args, void* scratch, void* stream) {
  const FieldShape& shape = args.shape;
  if (shape.batch * shape.rows * shape.cols * shape.dim == 0) return;
  if constexpr (std::is_same_v<T, float>) {
    if (is_fused(shape)) return field_forward_fused(args, static_cast<T*>(scratch), stream);
  }
  if (shape.dim > kForwardDims) {
    field_forward_large(args, static_cast<T*>(scratch), stream);
  } else {
    field_forward_registers(args, static_cast<T*>(scratch), stream);
  }
}

}  // namespace svgdx::cuda
