// The kernels of jacobian/cuda/gram_pairs.h.
#pragma once

#include "common/cuda/divider.cuh"
#include "common/cuda/row_group.cuh"
#include "jacobian/cuda/gram_pairs.h"

namespace svgdx::cuda {

constexpr int kGramThreads = 256;
constexpr int kGramWarps = kGramThreads / 32;
constexpr const char* kGramOp = "svgd_jacobian_sqnorm";

// Calls launch(grid, by_particles, first_block), with a warp for each particle.
template <class Launch>
void launch_particles(int64_t batch, int64_t particles, Launch launch) {
  const Divider by_particles(particles);
  launch_blocks(kGramOp, ceil_div(batch * particles, kGramWarps),
                [&](unsigned grid, int64_t first) { launch(grid, by_particles, first); });
}

template <class T>
__device__ inline double gram_beta(const PerBatch<T>& bandwidth, int64_t batch) {
  const double sigma = double(bandwidth[batch]);
  return sigma > 0 ? beta_of_sigma(sigma, kLargestSquarableBeta) : not_a_number<double>();
}

// weight beta^2 / M^2.
__device__ inline double gram_share(double weight, double beta, int64_t particles) {
  const double share = beta / double(particles);
  return weight * share * share;
}

// A block centres 32 columns of one batch row; a warp takes every eighth particle.
template <class T>
__global__ void __launch_bounds__(kGramThreads, 4)
    gram_rows_kernel(GramInputs<T> args, Divider by_columns, int64_t first_block) {
  SVGDX_SHARED(double, sums, kGramWarps, 33);
  int64_t batch = first_block + blockIdx.x;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t column = by_columns.split(batch) * 32 + lane;
  const bool exists = column < args.dim;
  const int64_t start = batch * args.particles * args.dim + column;
  double sum = 0;
  for (int64_t m = warp; m < args.particles; m += kGramWarps) {
    if (exists) sum += double(args.x[start + m * args.dim]);
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (!exists) return;
  double mean = 0;
  SVGDX_UNROLL
  for (int w = 0; w < kGramWarps; ++w) mean += sums[w][lane];
  mean /= double(args.particles);
  const double beta = gram_beta(args.bandwidth, batch);
  const int64_t kind = args.particles * args.dim;
  const int kinds = args.probe == nullptr ? 2 : 4;
  double* out = args.rows + (batch * kinds + (kinds == 4)) * kind + column;
  SVGDX_UNROLL_BY(1)
  for (int64_t m = warp; m < args.particles; m += kGramWarps) {
    const int64_t from = start + m * args.dim, to = m * args.dim;
    const double centred = double(args.x[from]) - mean;
    out[to] = centred;
    out[kind + to] = double(args.score[from]) - beta * centred;
    if (kinds == 2) continue;
    out[2 * kind + to] = double(args.hvp[from]);
    out[to - kind] = double(args.probe[from]);
  }
}

template <class T>
void gram_rows(const GramInputs<T>& args, void* stream) {
  const int64_t columns = ceil_div(args.dim, 32);
  const Divider by_columns(columns);
  launch_blocks(kGramOp, args.batch * columns, [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((gram_rows_kernel<T>), grid, kGramThreads, 0, stream, args, by_columns, first);
  });
}

// What particle i has in the products: row i of G = X X^T and U = X C^T, of F = C C^T, and of H and V with both.
template <class T>
struct GramRow {
  const double *x, *c, *h, *v;  // rows of 2 M numbers
  int64_t m;

  __device__ GramRow(const GramPairs<T>& args, int64_t batch, int64_t i) : m(args.particles) {
    v = args.products + (batch * args.kinds * m + i) * 2 * m;
    x = v + args.first() * 2 * m * m;
    c = x + 2 * m * m;
    h = c + 2 * m * m;
  }
  __device__ double g(int64_t j) const { return x[j]; }
  __device__ double u(int64_t j) const { return x[m + j]; }
  __device__ double f(int64_t j) const { return c[m + j]; }
};

// A warp per particle.
template <class T>
__global__ void __launch_bounds__(kGramThreads)
    gram_dots_kernel(GramPairs<T> args, Divider by_particles, int64_t first_block) {
  const int64_t item = (first_block + blockIdx.x) * kGramWarps + threadIdx.x / 32;
  if (item >= args.batch * args.particles) return;
  int64_t batch = item;
  const int64_t i = by_particles.split(batch);
  const int lane = threadIdx.x % 32;
  const GramRow<T> row(args, batch, i);
  if (lane == 0) {
    args.squares[item] = row.g(i);
    args.crosses[item] = row.u(i);
  }
  if (args.dots == nullptr) return;
  const int64_t kind = args.particles * args.dim;
  const double *v = args.rows + batch * args.kinds * kind + i * args.dim, *h = v + 3 * kind;
  double probe_hvp = 0, hvp_hvp = 0;
  for (int64_t d = lane; d < args.dim; d += 32) {
    probe_hvp += h[d] * v[d];
    hvp_hvp += h[d] * h[d];
  }
  probe_hvp = lane_sum(probe_hvp, 1, 32);
  hvp_hvp = lane_sum(hvp_hvp, 1, 32);
  if (lane != 0) return;
  double* dots = args.dots + item * kGramDots;
  dots[0] = row.h[i];
  dots[1] = row.v[i];
  dots[2] = probe_hvp;
  dots[3] = hvp_hvp;
}

template <class T>
void gram_dots(const GramPairs<T>& args, void* stream) {
  launch_particles(args.batch, args.particles, [&](unsigned grid, Divider by_particles, int64_t first) {
    SVGDX_LAUNCH((gram_dots_kernel<T>), grid, kGramThreads, 0, stream, args, by_particles, first);
  });
}

// A warp per particle i, for all j. Occupancy is below one half: the six sums and their operands stay in registers.
template <class T>
__global__ void __launch_bounds__(kGramThreads, 2)
    gram_kernel_kernel(GramPairs<T> args, Divider by_particles, int64_t first_block) {
  const int64_t item = (first_block + blockIdx.x) * kGramWarps + threadIdx.x / 32, m = args.particles;
  if (item >= args.batch * m) return;
  int64_t batch = item;
  const int64_t i = by_particles.split(batch);
  const int lane = threadIdx.x % 32;
  const GramRow<T> row(args, batch, i);
  const double *squares = args.squares + batch * m, *crosses = args.crosses + batch * m;
  const double beta = gram_beta(args.bandwidth, batch), g_ii = squares[i];
  const double x_hvp = args.dots == nullptr ? 0 : args.dots[item * kGramDots];
  const double v_x = args.dots == nullptr ? 0 : args.dots[item * kGramDots + 1];
  double* factors = args.factors + item * args.blocks() * m;
  const double alpha = args.weight == nullptr ? 0 : gram_share(double(args.weight[item]), beta, m);
  double sums[kGramSums] = {};
  SVGDX_UNROLL_BY(1)
  for (int64_t j = lane; j < m; j += 32) {
    const double g = row.g(j), u = row.u(j), f = row.f(j);
    // r_ii = 0, so j = i contributes nothing, but its large terms would have to cancel.
    const double kappa = j == i ? 0 : exp(beta * (g - 0.5 * (g_ii + squares[j])));
    args.kernel[item * m + j] = kappa;
    factors[j] = f;
    factors[m + j] = g;
    factors[2 * m + j] = f * g;
    const double a = beta * u + 0.5 * beta * beta * g_ii, b = 0.5 * g_ii - g;
    if (args.weight != nullptr) {
      factors[3 * m + j] = alpha * kappa;
      factors[4 * m + j] = 2 * alpha * kappa * b;
      factors[5 * m + j] = 2 * alpha * kappa * a;
    }
    sums[0] += kappa;
    sums[1] += kappa * (u + beta * (g_ii - g) - crosses[j]);
    sums[2] += kappa * a;
    sums[3] += kappa * b;
    sums[4] += kappa * a * b;
    if (args.dots == nullptr) continue;
    sums[5] += kappa * (row.h[m + j] + beta * x_hvp) * (v_x - row.v[j]);
  }
  SVGDX_UNROLL
  for (int s = 0; s < kGramSums; ++s) {
    const double sum = lane_sum(sums[s], 1, 32);
    if (lane == 0) args.sums[item * kGramSums + s] = sum;
  }
}

template <class T>
void gram_kernel(const GramPairs<T>& args, void* stream) {
  launch_particles(args.batch, args.particles, [&](unsigned grid, Divider by_particles, int64_t first) {
    SVGDX_LAUNCH((gram_kernel_kernel<T>), grid, kGramThreads, 0, stream, args, by_particles, first);
  });
}

// A warp per particle.
template <class T>
__global__ void __launch_bounds__(kGramThreads)
    gram_finish_kernel(GramPairs<T> args, Divider by_particles, int64_t first_block) {
  const int64_t item = (first_block + blockIdx.x) * kGramWarps + threadIdx.x / 32, m = args.particles;
  if (item >= args.batch * m) return;
  int64_t batch = item;
  const int64_t i = by_particles.split(batch);
  const int lane = threadIdx.x % 32;
  const GramRow<T> row(args, batch, i);
  const double beta = gram_beta(args.bandwidth, batch), g_ii = args.squares[item];
  const double* mixed = args.mixed + item * 3 * m;
  double sum = 0;
  SVGDX_UNROLL_BY(1)
  for (int64_t j = lane; j < m; j += 32) {
    const double a = beta * row.u(j) + 0.5 * beta * beta * g_ii, b = 0.5 * g_ii - row.g(j);
    sum += args.kernel[item * m + j] * (mixed[2 * m + j] + 2 * (b * mixed[j] + a * mixed[m + j]));
  }
  sum = lane_sum(sum, 1, 32);
  if (lane != 0) return;
  const double* sums = args.sums + item * kGramSums;
  const double k = sums[0], n = sum + 2 * (k * sums[4] + sums[2] * sums[3]);
  double squared = beta * beta * (double(args.dim) * k * k - 2 * k * sums[1] + n);
  if (args.dots != nullptr) {
    const double* dots = args.dots + item * kGramDots;
    squared += 2 * beta * (k * dots[2] - sums[5]) + dots[3];
  }
  args.out[item] = T(squared / (double(m) * double(m)));
}

template <class T>
void gram_finish(const GramPairs<T>& args, void* stream) {
  launch_particles(args.batch, args.particles, [&](unsigned grid, Divider by_particles, int64_t first) {
    SVGDX_LAUNCH((gram_finish_kernel<T>), grid, kGramThreads, 0, stream, args, by_particles, first);
  });
}

}  // namespace svgdx::cuda
