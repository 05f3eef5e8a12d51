// Completes a row of the backward pass from its sums, and the kernel that does so for sums formed in parts. Upstream
// gradients are used unscaled, G = grad_phi and H = +-grad_trace: everything is linear in them, so the step is applied
// at the end.
#pragma once

#include "common/cuda/columns.cuh"
#include "common/cuda/stored.cuh"
#include "field/args.h"

namespace svgdx::cuda {

// The scalar sums over the columns. If rows and columns are the same particles, j = i is excluded.
template <class T>
struct RowScalars {
  static constexpr int kCount = 4;
  T kappa;      // sum_j kappa
  T kappa_h;    // sum_j kappa H_j
  T value;      // sum_j kappa (P_ij + P_ji), see pair::Weights
  T log_sigma;  // sum_j pair::Weights::log_sigma_term
};

// h = -step * grad_trace with a step, h = grad_trace without.
template <class T>
SVGDX_HD T trace_sign(const FieldGradArgs<T>& args) {
  return args.step ? T(-1) : T(1);
}

// Turns a row's sums into gradients.
template <class T>
struct RowFinish {
  T beta_over_m, over_m, scale;  // scale: the step, or 1
  __device__ RowFinish(const FieldGradArgs<T>& args, int64_t b) {
    over_m = T(1) / static_cast<T>(args.particles);
    beta_over_m = beta_of(args.bandwidth, b) * over_m;
    scale = args.step ? args.step[b] : T(1);
  }
  // One dimension of dL/dx; x_sum as BackwardProduct forms it.
  __device__ T grad_x(T x_sum, T g, T s, const RowScalars<T>& sums) const {
    return beta_over_m * (g * sums.kappa + s * sums.kappa_h + x_sum);
  }
  __device__ T grad_score(T score_sum, T g, bool self) const { return over_m * (self ? score_sum + g : score_sum); }
};

// Stores grad_log_sigma and dot; own = G_i . s_i.
template <class T>
__device__ inline void write_row_scalars(const FieldGradArgs<T>& args, const RowFinish<T>& finish,
                                         const RowScalars<T>& sums, int64_t index, T own) {
  if (args.grad_log_sigma != nullptr) args.grad_log_sigma[index] = -finish.scale * sums.log_sigma * finish.over_m;
  if (args.dot == nullptr) return;
  const T h = args.row_grad_trace == nullptr ? T(0) : trace_sign(args) * args.row_grad_trace[index];
  const T hessian = args.hessian_trace == nullptr ? T(0) : args.hessian_trace[index];
  args.dot[index] = (T(0.5) * sums.value + own + h * hessian) * finish.over_m;
}

// Sums of a block of rows: vectors (parts, 2, batches, rows, dim), scalars (scalar_parts, kCount, batches, rows).
template <class T>
struct FieldGradSums {
  const T* vectors;
  const T* scalars;
  int64_t parts, scalar_parts, batch0, row0, batches, rows;
  Divider by_rows;
};

template <class T>
__device__ inline RowScalars<T> read_scalars(const FieldGradSums<T>& sums, int64_t local) {
  const int64_t count = sums.batches * sums.rows;
  RowScalars<T> out{};
  SVGDX_UNROLL_BY(1)
  for (int64_t p = 0; p < sums.scalar_parts; ++p) {
    const T* from = sums.scalars + p * RowScalars<T>::kCount * count + local;
    out.kappa += from[0];
    out.kappa_h += from[count];
    out.value += from[2 * count];
    out.log_sigma += from[3 * count];
  }
  return out;
}

// A group of lanes per row, which take packs of its dimensions in turn; parts are added in order.
// Occupancy is below one half: a lane's packs stay in registers.
template <class T>
__global__ void __launch_bounds__(kRowThreads, kPackBlocks)
    finish_field_backward_kernel(FieldGradArgs<T> args, FieldGradSums<T> sums, ColumnPlan plan, int64_t first_block) {
  SVGDX_SHARED(T, shares, kRowWarps);
  const RowGroup group(plan.rows);
  const int64_t count = sums.batches * sums.rows;
  const int64_t local = (first_block + blockIdx.x) * plan.rows.rows() + group.row;
  const bool active = local < count;
  int64_t b = active ? local : 0;
  const int64_t row = sums.row0 + sums.by_rows.split(b);
  b += sums.batch0;
  const int64_t index = b * args.shape.rows + row;
  const int64_t dim = args.shape.dim;
  const RowFinish<T> finish(args, b);
  const RowScalars<T> scalars = read_scalars(sums, active ? local : 0);
  T own = 0;
  SVGDX_UNROLL_BY(1)
  for (int64_t chunk = 0; active && chunk < plan.chunks; ++chunk) {
    const Columns<T> columns(plan, group.lane, chunk);
    WidePack<T> x_sum{};
    WidePack<T> score_sum{};
    SVGDX_UNROLL_BY(1)
    for (int64_t p = 0; p < sums.parts; ++p) {
      const T* from = sums.vectors + (p * 2 * count + local) * dim;
      const WidePack<T> x_part = columns.load(from);
      const WidePack<T> score_part = columns.load(from + count * dim);
      SVGDX_UNROLL
      for (int w = 0; w < kPackWidth<T>; ++w) {
        x_sum.v[w] += x_part.v[w];
        score_sum.v[w] += score_part.v[w];
      }
    }
    WidePack<T> g{};
    WidePack<T> s{};
    if (args.row_grad_phi != nullptr) g = load_columns(columns, stored(args, args.row_grad_phi) + index * dim);
    if (args.row_score != nullptr) s = load_columns(columns, stored(args, args.row_score) + index * dim);
    SVGDX_UNROLL
    for (int w = 0; w < kPackWidth<T>; ++w) {
      const T dx = finish.grad_x(x_sum.v[w], g.v[w], s.v[w], scalars);
      own += g.v[w] * s.v[w];
      x_sum.v[w] = args.step ? finish.scale * dx + g.v[w] : dx;
      score_sum.v[w] = finish.scale * finish.grad_score(score_sum.v[w], g.v[w], args.self);
    }
    store_columns(columns, args.grad_x, args.format, index * dim, x_sum);
    if (args.grad_score != nullptr) store_columns(columns, args.grad_score, args.format, index * dim, score_sum);
  }
  own = group.combine(own, Sum<T>(), shares);
  if (active && group.lane == 0) write_row_scalars(args, finish, scalars, index, own);
}

template <class T>
void finish_field_backward(const FieldGradArgs<T>& args, FieldGradSums<T> sums, void* stream) {
  sums.by_rows = Divider(sums.rows);
  const ColumnPlan plan =
      plan_rows<T>(args.shape.dim, sums.vectors, args.row_grad_phi, args.row_score, args.grad_x, args.grad_score);
  launch_blocks("field_backward", plan.row_blocks(sums.batches * sums.rows), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((finish_field_backward_kernel<T>), grid, kRowThreads, 0, stream, args, sums, plan, first);
  });
}

}  // namespace svgdx::cuda
