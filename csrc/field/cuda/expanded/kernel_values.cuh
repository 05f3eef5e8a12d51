// Kernel values from the expanded sums of pairs, or from differences for pairs whose sums cancel.
#pragma once

#include "field/cuda/expanded/product.cuh"
#include "field/cuda/fused/pairs.cuh"
#include "field/cuda/pairs.cuh"

namespace svgdx::cuda {

// A block takes one row, `columns()` columns at a time: `groups` of lanes divide the splits of the dimensions, a lane
// has four columns.
constexpr int kValueThreads = 128;
struct ValuePlan {
  int group_bits;
  SVGDX_HD int groups() const { return 1 << group_bits; }
  SVGDX_HD int lanes() const { return kValueThreads >> group_bits; }
  SVGDX_HD int columns() const { return 4 * lanes(); }
};

inline ValuePlan plan_values(const PairBlock& block) {
  // As many groups as leave a row's columns in one piece.
  ValuePlan plan{0};
  while (plan.group_bits < 3 && 2 * plan.groups() <= block.dim_splits && 2 * block.padded_cols <= plan.columns()) {
    ++plan.group_bits;
  }
  return plan;
}

// Sums of the pairs of a row that are formed anew by differences, in shared memory.
struct Redone {
  float* squared;  // of a column; negative if its sums do not cancel
  float* r_dot_s;
  float* kappa;  // 0 if its sums do not cancel
};

// A warp for each such pair of columns [j0, j0 + count).
__device__ inline void redo_sums(const Redone& redone, const float* x_i, const float* x, const float* score, int count,
                                 int64_t dim) {
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
__device__ inline void redo_products(const Redone& redone, const float* x_i, const float* x, const float* score,
                                     int count, int64_t dim, float beta, float* out, bool adds) {
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
  constexpr int kMost = 4 * kValueThreads;  // columns
  SVGDX_SHARED_PACKS(float, parts, 3 * kMost);
  SVGDX_SHARED(float, squared, kMost);
  SVGDX_SHARED(float, r_dot_s, kMost);
  SVGDX_SHARED(float, kappas, kMost);
  SVGDX_SHARED(float, shares, 2, kValueThreads / 32);
  SVGDX_SHARED(float, own_norm, 1);
  const Redone redone{squared, r_dot_s, kappas};
  const int64_t local = first_block + blockIdx.x;
  int64_t batch = local;
  const int64_t row = block.by_rows.split(batch);
  const float beta = beta_of(args.bandwidth, block.batch0 + batch);
  const float scale = beta * float(-0.5 * pair::kLog2E);
  const int64_t dim = args.shape.dim;
  const int64_t self = args.self ? block.row0 + row : int64_t(-1);
  const float* x_i = args.query + ((block.batch0 + batch) * args.shape.rows + block.row0 + row) * dim;
  const int64_t col0 = (block.batch0 + batch) * args.shape.cols;
  const int group = threadIdx.x / plan.lanes();
  const int lane = threadIdx.x % plan.lanes();
  float* values = sums + row * block.padded_cols;
  float trace_sum = 0;
  float kappa_sum = 0;
  bool has_redone = false;
  if (threadIdx.x < 32) {
    float norm = 0;
    for (int64_t split = threadIdx.x; split < block.dim_splits; split += 32) {
      norm += expansion.norms.row_norm[PairNorms::part(block, split, batch, block.padded_rows) + row];
    }
    norm = lane_sum(norm, 1, 32);
    if (threadIdx.x == 0) own_norm[0] = norm;
  }
  SVGDX_UNROLL_BY(1)
  for (int64_t j0 = 0; j0 < block.padded_cols; j0 += plan.columns()) {
    const int count = static_cast<int>(min(block.padded_cols - j0, int64_t(plan.columns())));
    Pack<float, 4> x_x{};
    Pack<float, 4> x_s{};
    Pack<float, 4> norm{};
    const int64_t at = j0 + 4 * lane;
    SVGDX_UNROLL_BY(4)
    for (int64_t split = group; split < (4 * lane < count ? block.dim_splits : 0); split += plan.groups()) {
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
    float* place = parts + group * 3 * plan.columns() + 4 * lane;
    *reinterpret_cast<Pack<float, 4>*>(place) = x_x;
    *reinterpret_cast<Pack<float, 4>*>(place + plan.columns()) = x_s;
    *reinterpret_cast<Pack<float, 4>*>(place + 2 * plan.columns()) = norm;
    __syncthreads();
    bool cancels = false;
    for (int c = threadIdx.x; c < count; c += kValueThreads) {
      const int64_t j = j0 + c;
      float kappa = 0;
      squared[c] = -1;
      kappas[c] = 0;
      if (j < block.cols && j != self) {
        float dot = 0;
        float r_dot_score = 0;
        float norms = own_norm[0];
        for (int g = 0; g < plan.groups(); ++g) {
          dot += parts[g * 3 * plan.columns() + c];
          r_dot_score += parts[(g * 3 + 1) * plan.columns() + c];
          norms += parts[(g * 3 + 2) * plan.columns() + c];
        }
        const float q = norms - 2 * dot;
        if (norms <= kMostCancelled * q) {
          kappa = power_of_two(scale * q);
        } else {
          cancels = true;
          squared[c] = 0;
        }
        if (kappa != 0) {
          kappa_sum += kappa;
          trace_sum += pair::trace_term(kappa, static_cast<float>(dim), r_dot_score + beta * q);
        }
      }
      values[block.plane(0, 0, ForwardPairs::kSums, batch) + j] = kappa;
    }
    if (!__syncthreads_or(cancels)) continue;
    const float* x = args.x + (col0 + j0) * dim;
    const float* score = args.score + (col0 + j0) * dim;
    redo_sums(redone, x_i, x, score, count, dim);
    __syncthreads();
    for (int c = threadIdx.x; c < count; c += kValueThreads) {
      if (squared[c] < 0) continue;
      const float kappa = power_of_two(scale * squared[c]);
      kappas[c] = kappa;
      if (kappa != 0) {
        trace_sum += pair::trace_term(kappa, static_cast<float>(dim), r_dot_s[c] + beta * squared[c]);
      }
    }
    __syncthreads();
    redo_products(redone, x_i, x, score, count, dim, beta, expansion.redone + local * dim, has_redone);
    has_redone = true;
  }
  trace_sum = lane_sum(trace_sum, 1, 32);
  kappa_sum = lane_sum(kappa_sum, 1, 32);
  if (threadIdx.x % 32 == 0) {
    shares[0][threadIdx.x / 32] = trace_sum;
    shares[1][threadIdx.x / 32] = kappa_sum;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  trace_sums[local] = shares[0][0] + shares[0][1] + (shares[0][2] + shares[0][3]);
  expansion.kappa[local] = shares[1][0] + shares[1][1] + (shares[1][2] + shares[1][3]);
  expansion.has_redone[local] = has_redone;
}

inline void expanded_values(const char* op, const FieldArgs<float>& args, const PairBlock& block,
                            const Expansion& expansion, float* sums, float* trace_sums, void* stream) {
  const ValuePlan plan = plan_values(block);
  launch_blocks(op, block.batches * block.rows, [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((expanded_kernel_values), grid, kValueThreads, 0, stream, args, block, expansion, plan, sums,
                 trace_sums, first);
  });
}

}  // namespace svgdx::cuda
