// The backward pass for small dimensions, in one pass over the columns: a row stays in the registers of 1 to 32
// neighbouring lanes, and columns pass through shared memory in tiles. Larger dimensions: fused/backward.cuh and
// expanded/backward.cuh in float, backward_large.cuh in double.
#pragma once

#include "common/cuda/tile.cuh"
#include "field/cuda/backward_large.cuh"
#include "field/cuda/backward_pair.cuh"
#include "field/cuda/expanded/backward.cuh"
#include "field/cuda/fused/backward.cuh"
#include "field/cuda/plan.cuh"

namespace svgdx::cuda {

constexpr int kBackwardThreads = 64;

// A row holds five vectors; with 16 floats each they fit the registers, with 16 doubles they do not.
template <class T>
constexpr int64_t kBackwardDims = 64 / int64_t(sizeof(T));

template <class T, int P>
struct FieldGradRow {
  T x[P], s[P], g[P];
  T h;
  T x_sum[P], score_sum[P];  // as BackwardProduct forms them
  RowScalars<T> sums;
};

// x, score and upstream gradients of a tile of columns or of the block's rows.
template <class T, int P>
struct GradTile {
  using Rows = RowTile<T, P, kBackwardThreads>;
  using Packed = typename Rows::Packed;
  Packed* x;
  Packed* s;
  Packed* g;
  T* h;

  __device__ void clear(int dim) const {
    clear_padding<Rows>(x, dim);
    clear_padding<Rows>(s, dim);
    clear_padding<Rows>(g, dim);
  }
  // Loads rows [first, first + count) of arrays, all of which but the first may be null.
  __device__ void load(const FieldGradArgs<T>& args, const T* from_x, const T* from_s, const T* from_g, const T* from_h,
                       int64_t first, int count, int dim, T sign, bool wide) const {
    load_rows<Rows>(x, stored(args, from_x) + first * dim, count, dim, wide);
    load_rows<Rows>(s, stored_if(args, from_s, first * dim), count, dim, wide);
    load_rows<Rows>(g, stored_if(args, from_g, first * dim), count, dim, wide);
    if (int(threadIdx.x) < count) h[threadIdx.x] = from_h == nullptr ? T(0) : sign * from_h[first + threadIdx.x];
  }
};

template <class T, int P>
__device__ inline void field_grad_tile(FieldGradRow<T, P>& row, const GradTile<T, P>& tile, int count, int lane,
                                       int lanes, int64_t self, T beta, T dim) {
  using Rows = typename GradTile<T, P>::Rows;
  using Packed = typename Rows::Packed;
  constexpr int kWidth = Rows::kWidth;
  for (int j = lane; j < count; j += lanes) {
    T sum[5] = {};
    T r[P];
    SVGDX_UNROLL
    for (int c = 0; c < Rows::kPacks; ++c) {
      const Packed x = Rows::read(tile.x, c, j);
      const Packed s = Rows::read(tile.s, c, j);
      const Packed g = Rows::read(tile.g, c, j);
      SVGDX_UNROLL
      for (int w = 0; w < kWidth; ++w) {
        const int d = c * kWidth + w;
        r[d] = row.x[d] - x.v[w];
        sum[0] += r[d] * r[d];
        sum[1] += r[d] * s.v[w];
        sum[2] += r[d] * row.s[d];
        sum[3] += row.g[d] * s.v[w];
        sum[3] += g.v[w] * row.s[d];
        sum[4] += r[d] * (row.g[d] - g.v[w]);
      }
    }
    const T h_j = tile.h[j];
    const PairWeights<T> weights(sum, beta, dim, row.h, h_j, j == self);
    weights.add_to(row.sums, h_j);
    const T kappa_beta_h_j = weights.kappa_beta * h_j;
    SVGDX_UNROLL
    for (int c = 0; c < Rows::kPacks; ++c) {
      const Packed s = Rows::read(tile.s, c, j);
      const Packed g = Rows::read(tile.g, c, j);
      SVGDX_UNROLL
      for (int w = 0; w < kWidth; ++w) {
        const int d = c * kWidth + w;
        row.x_sum[d] -= weights.kappa * (g.v[w] + row.h * s.v[w]);
        row.x_sum[d] -= weights.radial * r[d];
        row.score_sum[d] += weights.kappa * g.v[w];
        row.score_sum[d] += kappa_beta_h_j * r[d];
      }
    }
  }
}

template <class T, int P>
__device__ inline void sum_over_lanes(FieldGradRow<T, P>& row, int lanes) {
  SVGDX_UNROLL
  for (int d = 0; d < P; ++d) {
    row.x_sum[d] = lane_sum(row.x_sum[d], 1, lanes);
    row.score_sum[d] = lane_sum(row.score_sum[d], 1, lanes);
  }
  row.sums.kappa = lane_sum(row.sums.kappa, 1, lanes);
  row.sums.kappa_h = lane_sum(row.sums.kappa_h, 1, lanes);
  row.sums.value = lane_sum(row.sums.value, 1, lanes);
  row.sums.log_sigma = lane_sum(row.sums.log_sigma, 1, lanes);
}

// Stores rows through shared memory, so that the stores are contiguous; null if not requested.
template <class T, int P>
__device__ inline void store_two(const GradTile<T, P>& tile, const T (&a)[P], const T (&b)[P], T* to_a, T* to_b,
                                 Format format, int64_t first, int local, bool leader, int count, int dim) {
  using Rows = typename GradTile<T, P>::Rows;
  __syncthreads();
  if (leader) {
    write_row<Rows>(tile.x, local, a);
    write_row<Rows>(tile.s, local, b);
  }
  __syncthreads();
  store_rows<Rows>(tile.x, to_a, format, first, count, dim);
  if (to_b != nullptr) store_rows<Rows>(tile.s, to_b, format, first, count, dim);
}

template <class T, int P>
__device__ inline void field_grad_write(FieldGradRow<T, P>& row, const GradTile<T, P>& tile,
                                        const FieldGradArgs<T>& args, const FieldBlock& block, int local, bool leader) {
  const int dim = static_cast<int>(args.shape.dim);
  const int64_t first = block.batch * args.shape.rows + block.row0;
  const RowFinish<T> finish(args, block.batch);
  T own = 0;
  SVGDX_UNROLL
  for (int d = 0; d < P; ++d) {
    const T dx = finish.grad_x(row.x_sum[d], row.g[d], row.s[d], row.sums);
    const T ds = finish.grad_score(row.score_sum[d], row.g[d], args.self);
    own += row.g[d] * row.s[d];
    row.x_sum[d] = args.step ? finish.scale * dx + row.g[d] : dx;
    row.score_sum[d] = finish.scale * ds;
  }
  if (leader) write_row_scalars(args, finish, row.sums, first + local, own);
  store_two(tile, row.x_sum, row.score_sum, args.grad_x, args.grad_score, args.format, first * dim, local, leader,
            block.rows, dim);
}

// The sums over one part of the columns: vectors (splits, 2, batch, rows, dim), then scalars (splits, 4, batch, rows).
template <class T, int P>
__device__ inline void field_grad_partial(FieldGradRow<T, P>& row, const GradTile<T, P>& tile, const FieldShape& shape,
                                          const FieldBlock& block, int64_t splits, int local, bool leader, T* partial) {
  const int64_t all_rows = shape.batch * shape.rows;
  const int64_t first = block.batch * shape.rows + block.row0;
  if (leader) {
    T* to =
        partial + splits * 2 * all_rows * shape.dim + block.split * RowScalars<T>::kCount * all_rows + first + local;
    to[0] = row.sums.kappa;
    to[all_rows] = row.sums.kappa_h;
    to[2 * all_rows] = row.sums.value;
    to[3 * all_rows] = row.sums.log_sigma;
  }
  T* to_x = partial + (block.split * 2 * all_rows + first) * shape.dim;
  store_two(tile, row.x_sum, row.score_sum, to_x, to_x + all_rows * shape.dim, Format::kFloat, 0, local, leader,
            block.rows, static_cast<int>(shape.dim));
}

// Occupancy is mostly below one half: a row's five vectors stay in registers, and a thread's 2 P independent sums hide
// the latency in place of other warps.
template <class T, int P>
__global__ void __launch_bounds__(kBackwardThreads, P * sizeof(T) <= 16 ? 8 : 4)
    field_backward_kernel(FieldGradArgs<T> args, FieldPlan plan, T* partial, bool wide, int64_t first_block) {
  using Rows = typename GradTile<T, P>::Rows;
  using Packed = typename Rows::Packed;
  SVGDX_SHARED(Packed, tile_x, Rows::kSize);
  SVGDX_SHARED(Packed, tile_s, Rows::kSize);
  SVGDX_SHARED(Packed, tile_g, Rows::kSize);
  SVGDX_SHARED(T, tile_h, kBackwardThreads);
  const GradTile<T, P> tile{tile_x, tile_s, tile_g, tile_h};
  const FieldShape& shape = args.shape;
  const int dim = static_cast<int>(shape.dim);
  const FieldBlock block(plan, shape, first_block + blockIdx.x);
  const int local = threadIdx.x / plan.lanes;
  const int lane = threadIdx.x % plan.lanes;
  const bool active = local < block.rows;
  const T beta = beta_of(args.bandwidth, block.batch);
  const T sign = trace_sign(args);

  tile.clear(dim);
  tile.load(args, args.row_x, args.row_score, args.row_grad_phi, args.row_grad_trace,
            block.batch * shape.rows + block.row0, block.rows, dim, sign, wide);
  __syncthreads();
  FieldGradRow<T, P> row{};
  if (active) {
    read_row<Rows>(tile.x, local, row.x);
    read_row<Rows>(tile.s, local, row.s);
    read_row<Rows>(tile.g, local, row.g);
    row.h = tile.h[local];
  }
  const int64_t self = args.self ? block.row0 + local : int64_t(-1);
  for (int64_t j0 = block.col0; j0 < block.col1; j0 += kBackwardThreads) {
    const int count = static_cast<int>(min(block.col1 - j0, int64_t(kBackwardThreads)));
    __syncthreads();
    tile.load(args, args.col_x, args.col_score, args.col_grad_phi, args.col_grad_trace, block.batch * shape.cols + j0,
              count, dim, sign, wide);
    __syncthreads();
    if (active) field_grad_tile(row, tile, count, lane, plan.lanes, self - j0, beta, static_cast<T>(dim));
  }
  sum_over_lanes(row, plan.lanes);
  const bool leader = active && lane == 0;
  if (partial == nullptr) return field_grad_write(row, tile, args, block, local, leader);
  field_grad_partial(row, tile, shape, block, plan.splits, local, leader, partial);
}

template <class T>
void field_backward_registers(const FieldGradArgs<T>& args, bool wide, T* partial, void* stream) {
  const FieldShape& shape = args.shape;
  const FieldPlan plan = plan_field(shape, kBackwardThreads);
  T* sums = plan.splits > 1 ? partial : nullptr;
  dispatch_dims(shape.dim, [&](auto dims) {
    constexpr int P = std::min<int>(decltype(dims)::kValue, kBackwardDims<T>);
    launch_blocks("field_backward", plan.blocks, [&](unsigned grid, int64_t first) {
      SVGDX_LAUNCH((field_backward_kernel<T, P>), grid, kBackwardThreads, 0, stream, args, plan, sums, wide, first);
    });
  });
  if (sums == nullptr) return;
  T* scalars = sums + plan.splits * 2 * shape.batch * shape.rows * shape.dim;
  finish_field_backward(
      args, FieldGradSums<T>{sums, scalars, plan.splits, plan.splits, 0, 0, shape.batch, shape.rows, {}}, stream);
}

template <class T>
int64_t field_backward_scratch(const FieldGradArgs<T>& args) {
  const FieldShape& shape = args.shape;
  if (shape.batch * shape.rows * shape.cols * shape.dim == 0) return 0;
  if constexpr (std::is_same_v<T, float>) {
    if (is_fused_backward(shape)) return fused_backward_bytes(shape);
    if (shape.dim > kBackwardDims<T>) return expanded_backward_bytes(args);
  } else {
    if (shape.dim > kBackwardDims<T>) return large_backward_bytes<T>(shape);
  }
  const int64_t splits = plan_field(shape, kBackwardThreads).splits;
  const int64_t per_row = 2 * shape.dim + RowScalars<T>::kCount;
  return splits > 1 ? splits * shape.batch * shape.rows * per_row * int64_t(sizeof(T)) : 0;
}

template <class T>
void field_backward(const FieldGradArgs<T>& args, void* scratch, void* stream) {
  const FieldShape& shape = args.shape;
  if (shape.batch * shape.rows * shape.cols * shape.dim == 0) return;
  bool wide = true;
  const T* arrays[] = {args.row_x, args.row_score, args.row_grad_phi, args.col_x, args.col_score, args.col_grad_phi};
  for (const T* p : arrays) wide = wide && is_aligned(p, shape.dim);
  if constexpr (std::is_same_v<T, float>) {
    if (is_fused_backward(shape)) return field_backward_fused(args, wide, static_cast<float*>(scratch), stream);
    if (shape.dim > kBackwardDims<T>) {
      return ExpandedBackward(args, wide, static_cast<float*>(scratch), stream).run();
    }
  } else {
    if (shape.dim > kBackwardDims<T>) return field_backward_large(args, wide, static_cast<T*>(scratch), stream);
  }
  field_backward_registers(args, wide, static_cast<T*>(scratch), stream);
}

}  // namespace svgdx::cuda
