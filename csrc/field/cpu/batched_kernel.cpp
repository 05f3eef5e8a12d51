// Many small problems: one problem per SIMD lane, its pairs in order, each pair evaluated once for both particles
// (kappa_ij = kappa_ji), from direct differences. Only for problems whose rows are the particles, see dispatch.cpp.
#include <torch/csrc/stable/ops.h>

#include <algorithm>

#include "common/buffer.h"
#include "field/cpu/kernels.h"
#include "field/cpu/row.h"
#include "field/pair.h"

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
Vec<T> per_lane(const PerBatch<T>& p, int64_t first, int64_t batch, T otherwise) {
  Vec<T> v;
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    v[lane] = p.data ? p.data[std::min(first + lane, batch - 1) * p.stride] : otherwise;
  }
  return v;
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
    const Vec<T> sigma = per_lane<T>(a.bandwidth, first, n.batch, T(1)), beta = T(1) / (sigma * sigma);
    pairs(n.cols, beta);
    for (int lane = 0; lane < std::min<int64_t>(kLanes<T>, n.batch - first); ++lane) {
      for (int64_t i = 0; i < n.rows; ++i) {
        finish_forward<T, T>(a, first + lane, i, beta[lane], z.lane(i * D, lane), kLanes<T>, *trace.lane(i, lane));
      }
    }
  }
};

template <class T, int D>
struct Backward {
  Interleaved<T> x, s, g, h, gx, gs, z, trace;
  explicit Backward(const FieldShape& n)
      : x(n.cols * D),
        s(n.cols * D),
        g(n.cols * D),
        h(n.cols),
        gx(n.cols * D),
        gs(n.cols * D),
        z(n.cols * D),
        trace(n.cols) {}

  // Both particles of a pair at once; r_ji = -r_ij and the weight is symmetric.
  SVGDX_INLINE void column(int64_t i, int64_t j, Vec<T> beta, Vec<T> log2_scale, Vec<T>& ti) {
    const Vec<T>*xi = x[i * D], *si = s[i * D], *gi = g[i * D], *xj = x[j * D], *sj = s[j * D], *gj = g[j * D];
    const Vec<T> hi = *h[i], hj = *h[j];
    Vec<T> squared = {}, g_z = {}, r_z_ij = {}, r_z_ji = {};
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) {
      const Vec<T> r = xi[d] - xj[d], br = beta * r, z_ij = sj[d] + br, z_ji = si[d] - br;
      squared += r * r;
      g_z += gi[d] * z_ij;
      g_z += gj[d] * z_ji;
      r_z_ij += r * z_ij;
      r_z_ji -= r * z_ji;
    }
    const Vec<T> kappa = exp2_nonpositive<T>(log2_scale * squared);
    const Vec<T> cross = g_z - beta * (hi * r_z_ij + hj * r_z_ji);
    const Vec<T> weight = pair::weight<Vec<T>>(cross, beta, hi + hj, splat(T(D + 1)));
    ti += pair::trace_term<Vec<T>>(kappa, splat(T(D)), r_z_ij);
    *trace[j] += pair::trace_term<Vec<T>>(kappa, splat(T(D)), r_z_ji);
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) {
      const Vec<T> r = xi[d] - xj[d], br = beta * r, z_ij = sj[d] + br, z_ji = si[d] - br;
      const Vec<T> pull = kappa * pair::grad_x<Vec<T>>(gi[d], gj[d], hi, hj, z_ij, z_ji, r, weight);
      gx[i * D][d] += pull;
      gx[j * D][d] -= pull;
      gs[i * D][d] += kappa * pair::grad_score<Vec<T>>(gj[d], hj, beta, r);
      gs[j * D][d] += kappa * pair::grad_score<Vec<T>>(gi[d], hi, beta, -r);
      z[i * D][d] += kappa * z_ij;
      z[j * D][d] += kappa * z_ji;
    }
  }

  void run(const FieldGradArgs<T>& a, int64_t first) {
    const FieldShape& n = a.shape;
    const Vec<T> one = splat(T(1)), eps = per_lane<T>(a.step, first, n.batch, T(1));
    x.gather(a.row_x, first, n.batch, one);
    s.gather(a.row_score, first, n.batch, one);
    g.gather(a.row_grad_phi, first, n.batch, eps);
    h.gather(a.row_grad_trace, first, n.batch, a.step.data ? -eps : one);
    const Vec<T> sigma = per_lane<T>(a.bandwidth, first, n.batch, T(1)), beta = T(1) / (sigma * sigma);
    const Vec<T> log2_scale = beta * T(-0.5 * pair::kLog2E);
    gx.clear();
    trace.clear();
    for (int64_t e = 0; e < n.rows * D; ++e) *gs[e] = *g[e], *z[e] = *s[e];  // the pair (i, i)
    for (int64_t i = 0; i < n.rows; ++i) {
      Vec<T> ti = *trace[i];
      for (int64_t j = i + 1; j < n.rows; ++j) column(i, j, beta, log2_scale, ti);
      *trace[i] = ti;
    }
    for (int lane = 0; lane < std::min<int64_t>(kLanes<T>, n.batch - first); ++lane) {
      for (int64_t i = 0; i < n.rows; ++i) {
        finish_backward<T, T>(
            a, first + lane, i, beta[lane],
            {gx.lane(i * D, lane), gs.lane(i * D, lane), z.lane(i * D, lane), kLanes<T>, *trace.lane(i, lane)});
      }
    }
  }
};

template <class Pass, class T, class Args>
void run_pass(const Args& a) {
  const int64_t groups = (a.shape.batch + kLanes<T> - 1) / kLanes<T>;
  const int64_t pairs = std::max<int64_t>(1, a.shape.rows * a.shape.rows / 2);
  torch::stable::parallel_for(0, groups, std::max<int64_t>(1, 512 / pairs), [&](int64_t begin, int64_t end) {
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
