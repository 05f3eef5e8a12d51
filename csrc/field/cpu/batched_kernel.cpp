// Many small problems: one problem per SIMD lane, its pairs in order, each pair evaluated once for both particles
// (kappa_ij = kappa_ji), from direct differences. Only for problems whose rows are the particles, see dispatch.cpp.
#include <algorithm>

#include "common/cpu/parallel_for.h"
#include "field/cpu/kernels.h"
#include "field/cpu/row.h"
#include "field/pair.h"
#include "memory/buffer.h"

namespace svgdx::SVGDX_ISA {
namespace {

// kLanes interleaved problems: element e of problem `lane` is at [e][lane]. Lanes past the last problem repeat it.
template <class T>
class Interleaved {
 public:
  explicit Interleaved(int64_t elements) : elements_(elements), data_(elements * kLanes<T>) {}
  void gather(const T* source, int64_t first, int64_t batch, const Vec<T>& scale) {
    if (!source) return clear();
    const T* problem[kLanes<T>];
    for (int lane = 0; lane < kLanes<T>; ++lane) {
      problem[lane] = source + std::min(first + lane, batch - 1) * elements_;
    }
    for (int64_t e = 0; e < elements_; ++e) {
      Vec<T> v;
      for (int lane = 0; lane < kLanes<T>; ++lane) v[lane] = problem[lane][e];
      *(*this)[e] = v * scale;
    }
  }
  void clear() { std::fill_n(data_.get(), elements_ * kLanes<T>, T(0)); }
  Vec<T>* operator[](int64_t e) { return reinterpret_cast<Vec<T>*>(data_.get() + e * kLanes<T>); }
  const T* lane(int64_t e, int lane) const { return data_.get() + e * kLanes<T> + lane; }

 private:
  int64_t elements_;
  Buffer<T> data_;
};

template <class T>
Vec<T> beta_per_lane(const PerBatch<T>& bandwidth, int64_t first, int64_t batch) {
  Vec<T> sigma;
  for (int lane = 0; lane < kLanes<T>; ++lane) sigma[lane] = bandwidth[std::min(first + lane, batch - 1)];
  const Vec<T> beta = splat(T(1)) / (sigma * sigma), largest = splat(kLargestBeta<T>);
  return beta > largest ? largest : beta;
}

template <class T, int D>
struct Forward {
  Interleaved<T> x, s, z, trace;
  explicit Forward(const FieldShape& n) : x(n.cols * D), s(n.cols * D), z(n.cols * D), trace(n.cols) {}

  void pairs(int64_t count, Vec<T> beta) {
    const Vec<T> log2_scale = beta * T(-0.5 * pair::kLog2E);
    for (int64_t i = 0; i < count; ++i) {
      Vec<T> xi[D], si[D], zi[D], ti = *trace[i];
      for (int d = 0; d < D; ++d) xi[d] = x[i * D][d], si[d] = s[i * D][d], zi[d] = z[i * D][d] + si[d];
      for (int64_t j = i + 1; j < count; ++j) {
        const Vec<T>*xj = x[j * D], *sj = s[j * D];
        Vec<T>* zj = z[j * D];
        Vec<T> r[D], squared = {}, r_s_i = {}, r_s_j = {};
#pragma GCC unroll 8
        for (int d = 0; d < D; ++d) {
          r[d] = xi[d] - xj[d];
          squared += r[d] * r[d];
          r_s_i += r[d] * si[d];
          r_s_j += r[d] * sj[d];
        }
        const Vec<T> kappa = exp2_nonpositive<T>(log2_scale * squared);
        ti += pair::trace_term<Vec<T>>(kappa, splat(T(D)), beta * squared + r_s_j);
        *trace[j] += pair::trace_term<Vec<T>>(kappa, splat(T(D)), beta * squared - r_s_i);
#pragma GCC unroll 8
        for (int d = 0; d < D; ++d) {
          zi[d] += kappa * (sj[d] + beta * r[d]);
          zj[d] += kappa * (si[d] - beta * r[d]);
        }
      }
      *trace[i] = ti;
      for (int d = 0; d < D; ++d) z[i * D][d] = zi[d];
    }
  }

  void run(const FieldArgs<T>& a, int64_t first) {
    const FieldShape& n = a.shape;
    x.gather(a.x, first, n.batch, splat(T(1)));
    s.gather(a.score, first, n.batch, splat(T(1)));
    z.clear();
    trace.clear();
    const Vec<T> beta = beta_per_lane<T>(a.bandwidth, first, n.batch);
    pairs(n.cols, beta);
    for (int lane = 0; lane < std::min<int64_t>(kLanes<T>, n.batch - first); ++lane) {
      if (is_extreme(beta[lane])) {
        field_forward_plain(a, first + lane, 1);
        continue;
      }
      for (int64_t i = 0; i < n.rows; ++i) {
        finish_forward<T, T>(a, first + lane, i, beta[lane], z.lane(i * D, lane), kLanes<T>, *trace.lane(i, lane));
      }
    }
  }
};

template <class T, int D>
struct Backward {
  Interleaved<T> x, s, g, h, gx, gs, sums;
  explicit Backward(const FieldShape& n)
      : x(n.cols * D), s(n.cols * D), g(n.cols * D), h(n.cols), gx(n.cols * D), gs(n.cols * D), sums(n.cols * 2) {}

  // Both particles of a pair at once; r_ji = -r_ij and the weights are symmetric.
  SVGDX_INLINE void column(int64_t i, int64_t j, Vec<T> beta, Vec<T> log2_scale, Vec<T>& value, Vec<T>& log_sigma) {
    const Vec<T>*xi = x[i * D], *si = s[i * D], *gi = g[i * D], *xj = x[j * D], *sj = s[j * D], *gj = g[j * D];
    const Vec<T> hi = *h[i], hj = *h[j];
    pair::Sums<VecType<T>> sums = {};
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) {
      const Vec<T> r = xi[d] - xj[d];
      sums.squared += r * r;
      sums.r_s_j += r * sj[d];
      sums.r_s_i += r * si[d];
      sums.g_s += gi[d] * sj[d];
      sums.g_s += gj[d] * si[d];
      sums.g_r += r * (gi[d] - gj[d]);
    }
    const Vec<T> log2_kappa = log2_scale * sums.squared, log_kappa = log2_kappa * T(kLn2);
    const Vec<T> kappa = exp2_nonpositive<T>(log2_kappa);
    const pair::Weights<VecType<T>> w(sums, kappa, log_kappa, beta, hi, hj, splat(T(0.5) * T(D)));
    value += w.value;
    log_sigma += w.log_sigma_term(log_kappa);
    const Vec<T> kappa_hi = kappa * hi, kappa_hj = kappa * hj;
    const Vec<T> kappa_beta_hi = w.kappa_beta * hi, kappa_beta_hj = w.kappa_beta * hj;
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) {
      const Vec<T> r = xi[d] - xj[d];
      const Vec<T> pull = kappa * (gi[d] - gj[d]) - kappa_hi * sj[d] + kappa_hj * si[d] - w.radial * r;
      gx[i * D][d] += pull;
      gx[j * D][d] -= pull;
      gs[i * D][d] = gs[i * D][d] + kappa * gj[d] + kappa_beta_hj * r;
      gs[j * D][d] = gs[j * D][d] + kappa * gi[d] - kappa_beta_hi * r;
    }
  }

  void run(const FieldGradArgs<T>& a, int64_t first) {
    const FieldShape& n = a.shape;
    const Vec<T> one = splat(T(1));
    x.gather(a.row_x, first, n.batch, one);
    s.gather(a.row_score, first, n.batch, one);
    g.gather(a.row_grad_phi, first, n.batch, one);
    h.gather(a.row_grad_trace, first, n.batch, splat(trace_sign(a)));
    const Vec<T> beta = beta_per_lane<T>(a.bandwidth, first, n.batch);
    const Vec<T> log2_scale = beta * T(-0.5 * pair::kLog2E);
    gx.clear();
    gs.clear();
    for (int64_t i = 0; i < n.rows; ++i) {
      Vec<T> value = {}, log_sigma = {};
      for (int64_t j = i + 1; j < n.rows; ++j) column(i, j, beta, log2_scale, value, log_sigma);
      // Both ends of the pairs.
      *sums[2 * i] = value + value, *sums[2 * i + 1] = log_sigma + log_sigma;
      for (int d = 0; d < D; ++d) gx[i * D][d] *= beta;
    }
    for (int lane = 0; lane < std::min<int64_t>(kLanes<T>, n.batch - first); ++lane) {
      if (is_extreme(beta[lane])) {
        field_backward_plain(a, first + lane, 1);
        continue;
      }
      for (int64_t i = 0; i < n.rows; ++i) {
        finish_backward<T, T>(a, first + lane, i,
                              {gx.lane(i * D, lane), gs.lane(i * D, lane), kLanes<T>, *sums.lane(2 * i, lane),
                               *sums.lane(2 * i + 1, lane)});
      }
    }
  }
};

template <class Pass, class T, class Args>
void run_pass(const Args& a) {
  const int64_t groups = (a.shape.batch + kLanes<T> - 1) / kLanes<T>;
  const int64_t pairs = std::max<int64_t>(1, a.shape.rows * a.shape.rows / 2);
  cpu::parallel_for(0, groups, std::max<int64_t>(1, 512 / pairs), [&](int64_t begin, int64_t end) {
    Pass pass(a.shape);
    for (int64_t group = begin; group < end; ++group) pass.run(a, group * kLanes<T>);
  });
}

template <template <class, int> class Pass, class T, class Args>
void with_dim(const Args& a) {
  switch (a.shape.dim) {
    case 1:
      return run_pass<Pass<T, 1>, T>(a);
    case 2:
      return run_pass<Pass<T, 2>, T>(a);
    case 3:
      return run_pass<Pass<T, 3>, T>(a);
    case 4:
      return run_pass<Pass<T, 4>, T>(a);
    case 5:
      return run_pass<Pass<T, 5>, T>(a);
    case 6:
      return run_pass<Pass<T, 6>, T>(a);
    case 7:
      return run_pass<Pass<T, 7>, T>(a);
    case 8:
      return run_pass<Pass<T, 8>, T>(a);
  }
}

}  // namespace

bool field_batched_fits(const FieldShape& shape, bool self, int64_t element_size) {
  const int64_t lanes = SVGDX_VECTOR_BYTES / element_size;
  return self && shape.dim <= kDirectDim && shape.rows <= kBatchedParticles && shape.batch >= 4 * lanes;
}

template <class T>
void field_forward_batched(const FieldArgs<T>& args) {
  with_dim<Forward, T>(args);
}
template <class T>
void field_backward_batched(const FieldGradArgs<T>& args) {
  with_dim<Backward, T>(args);
}

template void field_forward_batched(const FieldArgs<float>&);
template void field_forward_batched(const FieldArgs<double>&);
template void field_backward_batched(const FieldGradArgs<float>&);
template void field_backward_batched(const FieldGradArgs<double>&);

}  // namespace svgdx::SVGDX_ISA
