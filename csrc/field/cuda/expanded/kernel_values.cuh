// Kernel values from the expanded sums of pairs, or from differences for pairs whose sums cancel.
#pragma once

#include "field/cuda/expanded/product.cuh"
#include "field/cuda/fused/pairs.cuh"
#include "field/cuda/pairs.cuh"

namespace svgdx::cuda {

// A block takes one row, or several if they are short and many, `columns()` columns at a time: `groups` of a row's
// lanes divide the splits of the dimensions, a lane has four columns.
constexpr int kValueThreads = 128;
constexpr int kMostValueRows = 8;
struct ValuePlan {
  int row_bits, group_bits;
  SVGDX_HD int rows() const { return 1 << row_bits; }
  SVGDX_HD int threads() const { return kValueThreads >> row_bits; }  // of a row
  SVGDX_HD int groups() const { return 1 << group_bits; }
  SVGDX_HD int lanes() const { return threads() >> group_bits; }
  SVGDX_HD int columns() const { return 4 * lanes(); }
};

inline ValuePlan plan_values(const PairBlock& block) {
  // As many rows as leave the multiprocessors busy, then as many groups as leave a row's columns in one piece.
  ValuePlan plan{0, 0};
  const auto fits_half = [&] { return 2 * block.padded_cols <= plan.columns(); };
  while (plan.rows() < kMostValueRows && fits_half() && block.batches * block.rows >= 2 * plan.rows() * kTargetBlocks) {
    ++plan.row_bits;
  }
  while (plan.group_bits < 3 && 2 * plan.groups() <= block.dim_splits && fits_half()) ++plan.group_bits;
  return plan;
}

// Sums of the pairs of a row that are formed anew by differences, in shared memory.
struct Redone {
  float* squared;  // of a column; negative if its sums do not cancel
  float* r_dot_s;
  float* kappa;  // 0 if its sums do not cancel

  __device__ Redone row(int r, int columns) const {
    return {squared + r * columns, r_dot_s + r * columns, kappa + r * columns};
  }
};

// A row of a block of pairs, and the particles of its batch entry.
struct ValueRow {
  int64_t batch, row;
  StoredFloats x_i, x, score;
  __device__ ValueRow(const FieldArgs<float>& args, const PairBlock& block, int64_t local)
      : batch(local),
        row(block.by_rows.split(batch)),
        x_i(stored(args, args.query) + ((block.batch0 + batch) * args.shape.rows + block.row0 + row) * args.shape.dim),
        x(stored(args, args.x) + (block.batch0 + batch) * args.shape.cols * args.shape.dim),
        score(stored(args, args.score) + (block.batch0 + batch) * args.shape.cols * args.shape.dim) {}
};

// A warp for each such pair of columns [j0, j0 + count).
__device__ inline void redo_sums(const Redone& redone, const StoredFloats& x_i, const StoredFloats& x,
                                 const StoredFloats& score, int count, int64_t dim) {
  const int lane = threadIdx.x % 32;
  for (int c = threadIdx.x / 32; c < count; c += kValueThreads / 32) {
    if (redone.squared[c] < 0) continue;
    float squared = 0;
    float r_dot_s = 0;
    SVGDX_UNROLL_BY(4)
    for (int64_t d = lane; d < dim; d += 32) {
      const float r = x_i[d] - x[c * dim + d];
      squared += r * r;
      r_dot_s += r * score[c * dim + d];
    }
    squared = lane_sum(squared, 1, 32);
    r_dot_s = lane_sum(r_dot_s, 1, 32);
    __syncwarp();
    if (lane != 0) continue;
    redone.squared[c] = squared;
    redone.r_dot_s[c] = r_dot_s;
  }
}

// Adds sum_j kappa (s_j + beta r_ij) of these pairs to the row's share in `out`, or writes it.
__device__ inline void redo_products(const Redone& redone, const StoredFloats& x_i, const StoredFloats& x,
                                     const StoredFloats& score, int count, int64_t dim, float beta, float* out,
                                     bool adds) {
  for (int64_t d = threadIdx.x; d < dim; d += kValueThreads) {
    float z = adds ? out[d] : 0.0f;
    for (int c = 0; c < count; ++c) {
      const float kappa = redone.kappa[c];
      if (kappa == 0) continue;  // z may overflow
      z += kappa * (score[c * dim + d] + beta * (x_i[d] - x[c * dim + d]));
    }
    out[d] = z;
  }
}

// Replaces the sums by kernel values in place and writes their sum and sum_j kappa (D - r.z) for each row. A particle's
// value with itself is 0. A pair whose sums cancel gets the value 0 as well: its share of the row's sum over columns
// goes to expansion.redone.
// Occupancy is below one half: a lane's packs stay in registers.
static __global__ void __launch_bounds__(kValueThreads, 3)
    expanded_kernel_values(FieldArgs<float> args, PairBlock block, Expansion expansion, ValuePlan plan, float* sums,
                           float* trace_sums, int64_t first_block) {
  constexpr int kMost = 4 * kValueThreads;  // columns of all rows and groups
  SVGDX_SHARED_PACKS(float, parts, 3 * kMost);
  SVGDX_SHARED(float, squared, kMost);
  SVGDX_SHARED(float, r_dot_s, kMost);
  SVGDX_SHARED(float, kappas, kMost);
  SVGDX_SHARED(float, shares, 2, kMostValueRows);
  SVGDX_SHARED(float, own_norms, kMostValueRows);
  const int64_t count = block.batches * block.rows;
  const int64_t local0 = (first_block + blockIdx.x) * plan.rows();
  const int r = threadIdx.x / plan.threads();
  const int thread = threadIdx.x % plan.threads();
  const int warp = min(32, plan.threads());  // lanes of a warp with the same row
  const bool active = local0 + r < count;
  const int64_t local = active ? local0 + r : count - 1;
  const ValueRow place(args, block, local);
  const int64_t batch = place.batch;
  const float beta = beta_of(args.bandwidth, block.batch0 + batch);
  const float scale = beta * float(-0.5 * pair::kLog2E);
  const int64_t dim = args.shape.dim;
  const int64_t self = args.self ? block.row0 + place.row : int64_t(-1);
  const int group = thread / plan.lanes();
  const int lane = thread % plan.lanes();
  const Redone block_redone{squared, r_dot_s, kappas};
  const Redone redone = block_redone.row(r, plan.columns());
  float* row_parts = parts + r * 3 * plan.groups() * plan.columns();
  float* values = sums + place.row * block.padded_cols;
  float trace_sum = 0;
  float kappa_sum = 0;
  bool has_redone = false;
  float own_norm = 0;
  for (int64_t split = thread; split < (thread < warp ? block.dim_splits : 0); split += warp) {
    own_norm += expansion.norms.row_norm[PairNorms::part(block, split, batch, block.padded_rows) + place.row];
  }
  own_norm = lane_sum(own_norm, 1, warp);
  if (thread == 0) own_norms[r] = own_norm;
  SVGDX_UNROLL_BY(1)
  for (int64_t j0 = 0; j0 < block.padded_cols; j0 += plan.columns()) {
    const int width = static_cast<int>(min(block.padded_cols - j0, int64_t(plan.columns())));
    Pack<float, 4> x_x{};
    Pack<float, 4> x_s{};
    Pack<float, 4> norm{};
    const int64_t at = j0 + 4 * lane;
    SVGDX_UNROLL_BY(4)
    for (int64_t split = group; split < (4 * lane < width ? block.dim_splits : 0); split += plan.groups()) {
      const int64_t part = PairNorms::part(block, split, batch, block.padded_cols) + at;
      const auto more_x = load_four(values + at + block.plane(split, 0, ForwardPairs::kSums, batch));
      const auto more_s = load_four(values + at + block.plane(split, 1, ForwardPairs::kSums, batch));
      const auto more_norm = load_four(expansion.norms.col_norm + part);
      const auto weight = load_four(expansion.norms.col_weight + part);
      SVGDX_UNROLL
      for (int w = 0; w < 4; ++w) {
        x_x.v[w] += more_x.v[w];
        x_s.v[w] += more_s.v[w] - weight.v[w];
        norm.v[w] += more_norm.v[w];
      }
    }
    float* to = row_parts + group * 3 * plan.columns() + 4 * lane;
    *reinterpret_cast<Pack<float, 4>*>(to) = x_x;
    *reinterpret_cast<Pack<float, 4>*>(to + plan.columns()) = x_s;
    *reinterpret_cast<Pack<float, 4>*>(to + 2 * plan.columns()) = norm;
    __syncthreads();
    bool cancels = false;
    for (int c = thread; c < width; c += plan.threads()) {
      const int64_t j = j0 + c;
      float kappa = 0;
      redone.squared[c] = -1;
      redone.kappa[c] = 0;
      if (active && j < block.cols && j != self) {
        float dot = 0;
        float r_dot_score = 0;
        float norms = own_norms[r];
        for (int g = 0; g < plan.groups(); ++g) {
          dot += row_parts[g * 3 * plan.columns() + c];
          r_dot_score += row_parts[(g * 3 + 1) * plan.columns() + c];
          norms += row_parts[(g * 3 + 2) * plan.columns() + c];
        }
        const float q = norms - 2 * dot;
        if (norms <= kMostCancelled * q) {
          kappa = power_of_two(scale * q);
        } else {
          cancels = true;
          redone.squared[c] = 0;
        }
        if (kappa != 0) {
          kappa_sum += kappa;
          trace_sum += pair::trace_term(kappa, static_cast<float>(dim), r_dot_score + beta * q);
        }
      }
      if (active) values[block.plane(0, 0, ForwardPairs::kSums, batch) + j] = kappa;
    }
    if (!__syncthreads_or(cancels)) continue;
    for (int64_t row = local0; row < min(local0 + plan.rows(), count); ++row) {
      const ValueRow other(args, block, row);
      redo_sums(block_redone.row(static_cast<int>(row - local0), plan.columns()), other.x_i, other.x + j0 * dim,
                other.score + j0 * dim, width, dim);
    }
    __syncthreads();
    for (int c = thread; c < width; c += plan.threads()) {
      if (redone.squared[c] < 0) continue;
      const float kappa = power_of_two(scale * redone.squared[c]);
      redone.kappa[c] = kappa;
      if (kappa != 0) {
        trace_sum += pair::trace_term(kappa, static_cast<float>(dim), redone.r_dot_s[c] + beta * redone.squared[c]);
      }
    }
    __syncthreads();
    for (int64_t row = local0; row < min(local0 + plan.rows(), count); ++row) {
      const ValueRow other(args, block, row);
      redo_products(block_redone.row(static_cast<int>(row - local0), plan.columns()), other.x_i, other.x + j0 * dim,
                    other.score + j0 * dim, width, dim, beta_of(args.bandwidth, block.batch0 + other.batch),
                    expansion.redone + row * dim, has_redone);
    }
    has_redone = true;
  }
  trace_sum = lane_sum(trace_sum, 1, warp);
  kappa_sum = lane_sum(kappa_sum, 1, warp);
  const int first_share = threadIdx.x / (kValueThreads / kMostValueRows);
  if (thread % warp == 0) {
    shares[0][first_share] = trace_sum;
    shares[1][first_share] = kappa_sum;
  }
  __syncthreads();
  if (!active || thread != 0) return;
  for (int w = 1; w < plan.threads() / warp; ++w) {
    trace_sum += shares[0][first_share + 2 * w];
    kappa_sum += shares[1][first_share + 2 * w];
  }
  trace_sums[local] = trace_sum;
  expansion.kappa[local] = kappa_sum;
  expansion.has_redone[local] = has_redone;
}

inline void expanded_values(const char* op, const FieldArgs<float>& args, const PairBlock& block,
                            const Expansion& expansion, float* sums, float* trace_sums, void* stream) {
  const ValuePlan plan = plan_values(block);
  launch_blocks(op, ceil_div(block.batches * block.rows, plan.rows()), [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((expanded_kernel_values), grid, kValueThreads, 0, stream, args, block, expansion, plan, sums,
                 trace_sums, first);
  });
}

}  // namespace svgdx::cuda
