#include "jacobian/cpu/gram_kernel.h"

#include <algorithm>

#include "common/vec_math.h"
#include "common/vec_rows.h"

namespace svgdx::SVGDX_ISA {
namespace {

// Independent partial sums of a dot product, so that its additions need not wait for one another.
constexpr int kSums = 16;

inline double total(const double* sums) {
  double sum = 0;
  for (int i = 0; i < kSums; ++i) sum += sums[i];
  return sum;
}

// Copies v and h of one particle and computes the dots x.h, v.h and h.h with the centred x.
template <class T>
void copy_and_dot(int64_t count, const double* __restrict x, const T* __restrict probe, const T* __restrict hvp,
                  double* __restrict probe_out, double* __restrict hvp_out, double* __restrict dots) {
  double xh[kSums] = {}, vh[kSums] = {}, hh[kSums] = {};
  const auto one = [&](int64_t i, int s) {
    const double v = double(probe[i]), h = double(hvp[i]);
    probe_out[i] = v;
    hvp_out[i] = h;
    xh[s] += x[i] * h;
    vh[s] += v * h;
    hh[s] += h * h;
  };
  int64_t i = 0;
  for (; i + kSums <= count; i += kSums) {
    for (int s = 0; s < kSums; ++s) one(i + s, s);
  }
  for (int s = 0; i < count; ++i, ++s) one(i, s);
  dots[0] = total(xh);
  dots[1] = total(vh);
  dots[2] = total(hh);
}

template <class T>
void item(const GramRows<T>& args, int64_t row, int64_t block) {
  const int64_t first = block * kGramColumns, count = std::min(kGramColumns, args.dim - first);
  const int64_t start = row * args.particles * args.dim + first;
  const double beta = args.beta[row], share = 1.0 / double(args.particles);
  double mean[kGramColumns] = {};
  for (int64_t m = 0; m < args.particles; ++m) {
    const T* __restrict x = args.x + start + m * args.dim;
    for (int64_t i = 0; i < count; ++i) mean[i] += double(x[i]);
  }
  for (int64_t i = 0; i < count; ++i) mean[i] *= share;
  for (int64_t m = 0; m < args.particles; ++m) {
    const int64_t at = start + m * args.dim;
    const T* __restrict x = args.x + at, * __restrict score = args.score + at;
    double* __restrict x_out = args.x_out + at, * __restrict c_out = args.c_out + at;
    for (int64_t i = 0; i < count; ++i) {
      const double centred = double(x[i]) - mean[i];
      x_out[i] = centred;
      c_out[i] = double(score[i]) - beta * centred;
    }
    if (!args.probe) continue;
    copy_and_dot(count, x_out, args.probe + at, args.hvp + at, args.probe_out + at, args.hvp_out + at,
                 args.dots + ((row * args.blocks() + block) * args.particles + m) * kGramDots);
  }
}

// The pair quantities of particle i with all j of its batch row; see jacobian/gram.h.
struct Row {
  const GramPairs& args;
  int64_t batch, i, start, row;  // offsets: start of the batch row's matrices, row of their row i
  double beta, g_ii;

  Row(const GramPairs& args, int64_t item)
      : args(args),
        batch(item / args.particles),
        i(item % args.particles),
        start(batch * args.particles * args.particles),
        row(start + i * args.particles),
        beta(args.beta[batch]),
        g_ii(args.g[row + i]) {}

  double diagonal(const double* matrix, int64_t j) const { return matrix[start + j * (args.particles + 1)]; }
  Vec<double> diagonals(const double* matrix, int64_t j) const {
    double values[kLanes<double>] = {};
    const int64_t count = std::min<int64_t>(kLanes<double>, args.particles - j);
    for (int64_t l = 0; l < count; ++l) values[l] = diagonal(matrix, j + l);
    return SVGDX_ISA::load(values);
  }
  template <class Access>
  Vec<double> a(int64_t j, Access at) const {
    return beta * at.load(args.u + row + j) + splat(0.5 * beta * beta * g_ii);
  }
  template <class Access>
  Vec<double> b(int64_t j, Access at) const {
    return splat(0.5 * g_ii) - at.load(args.g + row + j);
  }
};

}  // namespace

void gram_kernel(const GramPairs& args, int64_t begin, int64_t end) {
  for (int64_t item = begin; item < end; ++item) {
    const Row r(args, item);
    const double x_hvp = args.dots ? args.dots[item * kGramDots] : 0, v_x = args.vx ? args.vx[r.row + r.i] : 0;
    for_vectors<double>(args.particles, [&](int64_t j, auto at) {
      const Vec<double> g = at.load(args.g + r.row + j), half = splat(0.5) * (splat(r.g_ii) + r.diagonals(args.g, j));
      at.store(args.kernel + r.row + j, VecMath<double>::exp(r.beta * (g - half)));
      at.store(args.fg + r.row + j, g * at.load(args.f + r.row + j));
    });
    // r_ii = 0, so j = i contributes nothing, but its large terms would have to cancel.
    args.kernel[r.row + r.i] = 0;
    Vec<double> sums[kGramSums] = {};
    for_vectors<double>(args.particles, [&](int64_t j, auto at) {
      const Vec<double> kappa = at.load(args.kernel + r.row + j), g = at.load(args.g + r.row + j);
      const Vec<double> rho = at.load(args.u + r.row + j) + r.beta * (splat(r.g_ii) - g) - r.diagonals(args.u, j);
      const Vec<double> a = r.a(j, at), b = r.b(j, at);
      sums[0] += kappa;
      sums[1] += kappa * rho;
      sums[2] += kappa * a;
      sums[3] += kappa * b;
      sums[4] += kappa * a * b;
      if (!args.dots) return;
      const Vec<double> p = at.load(args.hc + r.row + j) + splat(r.beta * x_hvp);
      sums[5] += kappa * p * (splat(v_x) - at.load(args.vx + r.row + j));
    });
    for (int64_t s = 0; s < kGramSums; ++s) args.sums[item * kGramSums + s] = horizontal_sum<double>(sums[s]);
  }
}

void gram_finish(const GramPairs& args, int64_t begin, int64_t end) {
  const double scale = 1.0 / (double(args.particles) * double(args.particles));
  for (int64_t item = begin; item < end; ++item) {
    const Row r(args, item);
    const double* sums = args.sums + item * kGramSums;
    const double k = sums[0], tau = sums[1], sum_a = sums[2], sum_b = sums[3], sum_ab = sums[4], zeta = sums[5];
    Vec<double> sum{};
    for_vectors<double>(args.particles, [&](int64_t j, auto at) {
      const Vec<double> mixed = r.b(j, at) * at.load(args.kf + r.row + j) + r.a(j, at) * at.load(args.kg + r.row + j);
      sum += at.load(args.kernel + r.row + j) * (at.load(args.ke + r.row + j) + splat(2.0) * mixed);
    });
    const double n = horizontal_sum<double>(sum) + 2 * (k * sum_ab + sum_a * sum_b);
    double squared = r.beta * r.beta * (double(args.dim) * k * k - 2 * k * tau + n);
    if (args.dots) {
      const double *dots = args.dots + item * kGramDots, probe_hvp = dots[1], hvp_hvp = dots[2];
      squared += 2 * r.beta * (k * probe_hvp - zeta) + hvp_hvp;
    }
    args.out[item] = scale * squared;
  }
}

template <class T>
void gram_rows(const GramRows<T>& args, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) item(args, i / args.blocks(), i % args.blocks());
}

template void gram_rows(const GramRows<float>&, int64_t, int64_t);
template void gram_rows(const GramRows<double>&, int64_t, int64_t);

}  // namespace svgdx::SVGDX_ISA
