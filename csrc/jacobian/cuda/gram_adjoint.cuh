// The gradient of the Gram route: the adjoint of jacobian/gram.h in two kernels around torch's products.
#pragma once

#include "jacobian/cuda/gram_pairs.cuh"

namespace svgdx::cuda {

// dL/d of what the forward pass has of a pair (i, j), and of log K_ij.
struct PairGradient {
  double norm = 0;  // what the pair adds to sum_j K (K E + 2 b K F + 2 a K G)
  double a = 0, b = 0, rho = 0, log = 0, f = 0, g = 0, u = 0, p = 0, q = 0;
};

// Particle i with all that its pairs (i, j) share.
template <class T>
struct GradientRow {
  GramRow<T> row;
  const double *sums, *dots, *kernel, *mixed, *inner, *crosses;
  double g_ii, beta, alpha2, gamma, of_tau, of_k;

  // own_sums and own_dots are the particle's in pairs.sums and pairs.dots.
  __device__ GradientRow(const GramGrads<T>& args, int64_t batch, int64_t i, const double* own_sums,
                         const double* own_dots, double square, double weight)
      : row(args.pairs, batch, i), sums(own_sums), dots(own_dots), g_ii(square) {
    const GramPairs<T>& pairs = args.pairs;
    const int64_t m = pairs.particles, item = batch * m + i;
    kernel = pairs.kernel + item * m;
    mixed = pairs.mixed + item * kGramBackward * m;
    inner = args.inner + item * m;
    crosses = pairs.crosses + batch * m;
    beta = gram_beta(pairs.bandwidth, batch);
    alpha2 = 2 * gram_share(weight, beta, m);
    gamma = dots == nullptr ? 0 : 2 * weight * beta / (double(m) * double(m));
    of_tau = -alpha2 * sums[0];
    of_k = alpha2 * (double(pairs.dim) * sums[0] - sums[1]) + (dots == nullptr ? 0 : gamma * dots[2]);
  }
  __device__ GradientRow(const GramGrads<T>& args, int64_t batch, int64_t i)
      : GradientRow(
            args, batch, i, args.pairs.sums + (batch * args.pairs.particles + i) * kGramSums,
            args.pairs.dots == nullptr ? nullptr : args.pairs.dots + (batch * args.pairs.particles + i) * kGramDots,
            args.pairs.squares[batch * args.pairs.particles + i],
            double(args.pairs.weight[batch * args.pairs.particles + i])) {}

  __device__ PairGradient pair(int64_t j) const {
    const int64_t m = row.m;
    const double kappa = kernel[j], g = row.g(j), u = row.u(j), f = row.f(j), k = sums[0];
    const double a = beta * u + 0.5 * beta * beta * g_ii, b = 0.5 * g_ii - g;
    const double kf = mixed[j], kg = mixed[m + j], ke = mixed[2 * m + j], of_e = mixed[3 * m + j];
    const double rho = u + beta * (g_ii - g) - crosses[j];
    PairGradient of;
    of.norm = kappa * (ke + 2 * (b * kf + a * kg));
    of.a = alpha2 * kappa * (kg + k * b + sums[3]);
    of.b = alpha2 * kappa * (kf + k * a + sums[2]);
    of.rho = of_tau * kappa;
    double of_kernel = alpha2 * (ke + b * kf + a * kg + k * a * b + sums[4] + a * sums[3] + b * sums[2]) + inner[j];
    of_kernel += of_tau * rho + of_k;
    if (dots != nullptr) {
      const double p = row.h[m + j] + beta * dots[0], q = dots[1] - row.v[j];
      of_kernel -= gamma * p * q;
      of.p = -gamma * kappa * q;
      of.q = -gamma * kappa * p;
    }
    of.log = of_kernel * kappa;
    of.f = of_e * g + mixed[4 * m + j];
    of.g = of_e * f + mixed[5 * m + j] - of.b + beta * (of.log - of.rho);
    of.u = beta * of.a + of.rho;
    return of;
  }
};

// A strip of rows is a block's, a warp for each.
constexpr int kStripThreads = 128;
constexpr int kStripRows = kStripThreads / 32;

// A block takes a strip of particles i with all j, 32 at a time. It needs the pairs (j, i), too: its threads compute
// them first, neighbours i together, and pass them through shared memory. Occupancy is below one half: what a
// particle's pairs share, and its sums, stay in registers.
template <class T>
__global__ void __launch_bounds__(kStripThreads, 3)
    gram_adjoint_kernel(GramGrads<T> args, Divider by_strips, int64_t first_block) {
  constexpr int kMirrored = 7;
  SVGDX_SHARED(double, mirrored, kMirrored, kStripRows, 36);
  SVGDX_SHARED(double, sums, 32 * kGramSums);
  SVGDX_SHARED(double, dots, 32 * kGramDots);
  SVGDX_SHARED(double, squares, 32);
  SVGDX_SHARED(double, weights, 32);
  int64_t batch = first_block + blockIdx.x;
  const int64_t m = args.pairs.particles, first = by_strips.split(batch) * kStripRows;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int other = threadIdx.x % kStripRows, behind = threadIdx.x / kStripRows;
  const int64_t i = first + warp, item = batch * m + i;
  const bool exists = i < m;
  // Threads of a row beyond the last compute the last one again, and write nothing.
  const GradientRow<T> row(args, batch, exists ? i : m - 1);
  double* const out = args.adjoint + item * kGramBackward * m;
  const int64_t probed = args.pairs.first() * m;
  double norm = 0, of_a = 0, of_b = 0, of_rho = 0, of_log = 0, of_p = 0, of_q = 0, of_u_diag = 0;
  SVGDX_UNROLL_BY(1)
  for (int64_t start = 0; start < m; start += 32) {
    const int count = static_cast<int>(min(m - start, int64_t(32)));
    const int64_t from = batch * m + start;
    for (int e = threadIdx.x; e < count * kGramSums; e += kStripThreads)
      sums[e] = args.pairs.sums[from * kGramSums + e];
    if (probed != 0) {
      for (int e = threadIdx.x; e < count * kGramDots; e += kStripThreads) {
        dots[e] = args.pairs.dots[from * kGramDots + e];
      }
    }
    if (int(threadIdx.x) < count) {
      squares[threadIdx.x] = args.pairs.squares[from + threadIdx.x];
      weights[threadIdx.x] = double(args.pairs.weight[from + threadIdx.x]);
    }
    __syncthreads();
    if (behind < count && first + other < m) {
      const GradientRow<T> mirror(args, batch, start + behind, sums + behind * kGramSums,
                                  probed != 0 ? dots + behind * kGramDots : nullptr, squares[behind], weights[behind]);
      const PairGradient of = mirror.pair(first + other);
      const double values[kMirrored] = {of.f, of.g, of.u, of.p, of.q, of.log, of.rho};
      SVGDX_UNROLL
      for (int n = 0; n < kMirrored; ++n) mirrored[n][other][behind] = values[n];
    }
    __syncthreads();
    const int64_t j = start + lane;
    if (exists && j < m) {
      const PairGradient of = row.pair(j);
      norm += of.norm;
      of_a += of.a;
      of_b += of.b;
      of_rho += of.rho;
      of_p += of.p;
      of_q += of.q;
      of_log += of.log + mirrored[5][warp][lane];
      of_u_diag -= mirrored[6][warp][lane];
      double* to = out + j;
      if (probed != 0) *to = -mirrored[4][warp][lane];
      to += probed;
      to[0] = of.g + mirrored[1][warp][lane];
      to[m] = of.u;
      to[2 * m] = mirrored[2][warp][lane];
      to[3 * m] = of.f + mirrored[0][warp][lane];
      if (probed != 0) to[4 * m] = mirrored[3][warp][lane];
    }
    __syncthreads();
  }
  const double of_diag = 0.5 * (row.beta * row.beta * of_a + of_b) + row.beta * (of_rho - 0.5 * of_log);
  const double own[] = {2 * of_diag, of_u_diag, row.beta * of_p, of_q, row.gamma * row.sums[0], norm};
  SVGDX_UNROLL
  for (int n = 0; n < kGramOwn; ++n) {
    const double sum = n == 4 ? own[n] : lane_sum(own[n], 1, 32);
    if (lane == 0 && exists) args.own[item * kGramOwn + n] = sum;
  }
}

template <class T>
void gram_adjoint(const GramGrads<T>& args, void* stream) {
  const int64_t strips = ceil_div(args.pairs.particles, kStripRows);
  const Divider by_strips(strips);
  launch_blocks(kGramOp, args.pairs.batch * strips, [&](unsigned grid, int64_t first) {
    SVGDX_LAUNCH((gram_adjoint_kernel<T>), grid, kStripThreads, 0, stream, args, by_strips, first);
  });
}

// A warp per particle.
template <class T>
__global__ void __launch_bounds__(kGramThreads)
    gram_gradients_kernel(GramGrads<T> args, Divider by_particles, int64_t first_block) {
  const GramPairs<T>& pairs = args.pairs;
  const int64_t item = (first_block + blockIdx.x) * kGramWarps + threadIdx.x / 32, m = pairs.particles;
  if (item >= pairs.batch * m) return;
  int64_t batch = item;
  const int64_t i = by_particles.split(batch), dim = pairs.dim, all = pairs.batch * m * dim, kind = m * dim;
  const int lane = threadIdx.x % 32;
  const bool probed = pairs.dots != nullptr;
  const double* own = args.own + item * kGramOwn;
  const double *sums = pairs.sums + item * kGramSums, *dots = pairs.dots + (probed ? item * kGramDots : 0);
  const double beta = gram_beta(pairs.bandwidth, batch), weight = double(pairs.weight[item]);
  const double share = 2 * weight / (double(m) * double(m));
  const double* x = pairs.rows + (batch * pairs.kinds + pairs.first()) * kind + i * dim;
  const double* of_x = args.parts + pairs.first() * all + item * dim;
  double radial = 0;
  SVGDX_UNROLL_BY(1)
  for (int64_t d = lane; d < dim; d += 32) {
    const double c = x[kind + d], of_c = of_x[all + d] + own[1] * x[d];
    double gradient = of_x[d] + own[0] * x[d] + own[1] * c - beta * of_c;
    if (probed) {
      const double v = x[d - kind], h = x[2 * kind + d];
      gradient += own[2] * h + own[3] * v;
      args.grad_hvp[item * dim + d] = T(of_x[2 * all + d] + own[2] * x[d] + own[4] * v + share * h);
      args.grad_probe[item * dim + d] = T(of_x[d - all] + own[3] * x[d] + own[4] * h);
    }
    args.grad_x[item * dim + d] = T(gradient);
    args.grad_score[item * dim + d] = T(of_c);
    radial += (c + beta * x[d]) * of_c - x[d] * gradient;
  }
  radial = lane_sum(radial, 1, 32);
  if (lane != 0) return;
  const double k = sums[0], n = own[5] + 2 * (k * sums[4] + sums[2] * sums[3]);
  radial -= 2 * beta * beta * share * (double(dim) * k * k - 2 * k * sums[1] + n);
  if (probed) radial -= 2 * beta * share * (k * dots[2] - sums[5]);
  args.euler[item] = radial;
}

template <class T>
void gram_gradients(const GramGrads<T>& args, void* stream) {
  launch_particles(args.pairs.batch, args.pairs.particles, [&](unsigned grid, Divider by_particles, int64_t first) {
    SVGDX_LAUNCH((gram_gradients_kernel<T>), grid, kGramThreads, 0, stream, args, by_particles, first);
  });
}

}  // namespace svgdx::cuda
