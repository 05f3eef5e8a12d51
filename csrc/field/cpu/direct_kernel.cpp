// Small dimensions: one row per SIMD lane with its sums in registers, columns broadcast one by one, direct differences.
#include <algorithm>

#include "common/cpu/parallel_for.h"
#include "common/vec.h"
#include "field/cpu/kernels.h"
#include "field/cpu/row.h"
#include "field/pair.h"

namespace svgdx::SVGDX_ISA {
namespace {

// Vectors of rows per work item; the threads share the items.
constexpr int kVectors = 2;
// Pairs that make starting a further thread worthwhile.
constexpr int64_t kPairsPerThread = 8192;

template <class T, int D>
struct Rows {
  T data[D][kVectors * kLanes<T>];
  // Lanes past the end repeat the last row, so that they hold ordinary numbers; they are never stored.
  void gather(const T* rows, int64_t first, int64_t end, T scale) {
    for (int lane = 0; lane < kVectors * kLanes<T>; ++lane) {
      const int64_t i = std::min(first + lane, end - 1);
      for (int d = 0; d < D; ++d) data[d][lane] = rows ? rows[i * D + d] * scale : T(0);
    }
  }
  SVGDX_INLINE Vec<T> operator()(int d, int v) const { return load(&data[d][v * kLanes<T>]); }
};

template <class T>
SVGDX_INLINE Vec<T> mask_self(Vec<T> value, int64_t row_of_vector, int64_t j) {
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    if (row_of_vector + lane == j) value[lane] = T(0);
  }
  return value;
}

template <class T, int D>
struct Forward {
  static constexpr int kRows = kVectors * kLanes<T>;
  Rows<T, D> x;
  Vec<T> z_sum[D][kVectors], trace[kVectors];

  template <bool kSelf>
  SVGDX_INLINE void column(const T* xj, const T* sj, Vec<T> beta, Vec<T> log2_scale, int64_t first, int64_t j) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      Vec<T> z[D], squared = {}, r_dot_z = {};
#pragma GCC unroll 8
      for (int d = 0; d < D; ++d) {
        const Vec<T> r = x(d, v) - xj[d];
        squared += r * r;
        z[d] = sj[d] + beta * r;
        r_dot_z += r * z[d];
      }
      const Vec<T> kappa = exp2_nonpositive<T>(log2_scale * squared);
      const Vec<T> counted = kSelf ? mask_self<T>(kappa, first + v * kLanes<T>, j) : kappa;
      trace[v] += pair::trace_term<Vec<T>>(counted, splat(T(D)), r_dot_z);
#pragma GCC unroll 8
      for (int d = 0; d < D; ++d) z_sum[d][v] += kappa * z[d];
    }
  }

  void run(const FieldArgs<T>& a, int64_t b, int64_t first) {
    const int64_t rows = a.shape.rows, cols = a.shape.cols;
    const T *xs = a.x + b * cols * D, *ss = a.score + b * cols * D;
    const T beta = beta_of<T, T>(a.bandwidth, b);
    if (is_extreme(beta)) return;
    const Vec<T> beta_v = splat(beta), scale = splat(T(-0.5 * pair::kLog2E) * beta);
    x.gather(a.query + b * rows * D, first, rows, T(1));
    for (int v = 0; v < kVectors; ++v) {
      trace[v] = Vec<T>{};
      for (int d = 0; d < D; ++d) z_sum[d][v] = Vec<T>{};
    }
    const int64_t self_begin = a.self ? first : cols, self_end = a.self ? std::min(first + kRows, cols) : cols;
    for (int64_t j = 0; j < self_begin; ++j) column<false>(xs + j * D, ss + j * D, beta_v, scale, first, j);
    for (int64_t j = self_begin; j < self_end; ++j) column<true>(xs + j * D, ss + j * D, beta_v, scale, first, j);
    for (int64_t j = self_end; j < cols; ++j) column<false>(xs + j * D, ss + j * D, beta_v, scale, first, j);
    finish(a, b, first, beta);
  }

  void finish(const FieldArgs<T>& a, int64_t b, int64_t first, T beta) {
    T z[D][kRows], t[kRows];
    for (int v = 0; v < kVectors; ++v) {
      store(&t[v * kLanes<T>], trace[v]);
      for (int d = 0; d < D; ++d) store(&z[d][v * kLanes<T>], z_sum[d][v]);
    }
    const int64_t count = std::min<int64_t>(kRows, a.shape.rows - first);
    for (int64_t l = 0; l < count; ++l) finish_forward<T, T>(a, b, first + l, beta, &z[0][l], kRows, t[l]);
  }
};

template <class T, int D>
struct Backward {
  static constexpr int kRows = kVectors * kLanes<T>;
  Rows<T, D> x, s, g;
  Rows<T, 1> h;
  Vec<T> gx[D][kVectors], gs[D][kVectors];
  Vec<T> kappa_sum[kVectors], kappa_h[kVectors], value[kVectors], log_sigma[kVectors];
  bool needs_value;

  // Adds one column, unless it is the row itself, to the sums from which finish() assembles dL/dx_i:
  //   sum_j kappa (g_j + h_i s_j) + radial r,  sum kappa,  sum kappa h_j.
  template <bool kSelf>
  SVGDX_INLINE void column(const T* xj, const T* sj, const T* gj, T hj, Vec<T> beta, Vec<T> log2_scale, int64_t first,
                           int64_t j) {
#pragma GCC unroll 1
    for (int v = 0; v < kVectors; ++v) {
      pair::Sums<VecType<T>> sums = {};
      const Vec<T> hi = h(0, v);
#pragma GCC unroll 8
      for (int d = 0; d < D; ++d) {
        const Vec<T> r = x(d, v) - xj[d];
        sums.squared += r * r;
        sums.r_s_j += r * sj[d];
        sums.r_s_i += r * s(d, v);
        sums.g_s += g(d, v) * sj[d];
        sums.g_s += gj[d] * s(d, v);
        sums.g_r += r * (g(d, v) - gj[d]);
      }
      const Vec<T> log2_kappa = log2_scale * sums.squared, log_kappa = log2_kappa * T(kLn2);
      const Vec<T> kernel = exp2_nonpositive<T>(log2_kappa);
      const Vec<T> kappa = kSelf ? mask_self<T>(kernel, first + v * kLanes<T>, j) : kernel;
      const pair::Weights<VecType<T>> w(sums, kappa, log_kappa, beta, hi, splat(hj), splat(T(0.5) * T(D)));
      if (needs_value) value[v] += w.value;
      log_sigma[v] += w.log_sigma_term(log_kappa);
      kappa_sum[v] += kappa;
      kappa_h[v] += kappa * hj;
      const Vec<T> kappa_hi = kappa * hi, kappa_beta_hj = w.kappa_beta * hj;
#pragma GCC unroll 8
      for (int d = 0; d < D; ++d) {
        const Vec<T> r = x(d, v) - xj[d];
        gs[d][v] += kappa * gj[d];
        gs[d][v] += kappa_beta_hj * r;
        gx[d][v] += kappa * gj[d];
        gx[d][v] += kappa_hi * sj[d];
        gx[d][v] += w.radial * r;
      }
    }
  }

  void run(const FieldGradArgs<T>& a, int64_t b, int64_t first) {
    const int64_t rows = a.shape.rows, cols = a.shape.cols;
    const T h_sign = trace_sign(a);
    needs_value = a.dot != nullptr;
    auto row_at = [&](const T* p, int64_t width) { return p ? p + b * rows * width : nullptr; };
    x.gather(row_at(a.row_x, D), first, rows, T(1));
    s.gather(row_at(a.row_score, D), first, rows, T(1));
    g.gather(row_at(a.row_grad_phi, D), first, rows, T(1));
    h.gather(row_at(a.row_grad_trace, 1), first, rows, h_sign);
    for (int v = 0; v < kVectors; ++v) {
      value[v] = log_sigma[v] = kappa_sum[v] = kappa_h[v] = Vec<T>{};
      for (int d = 0; d < D; ++d) gx[d][v] = gs[d][v] = Vec<T>{};
    }
    const T beta = beta_of<T, T>(a.bandwidth, b);
    if (is_extreme(beta)) return;
    const Vec<T> beta_v = splat(beta), scale = splat(T(-0.5 * pair::kLog2E) * beta);
    const int64_t self_begin = a.self ? first : cols, self_end = a.self ? std::min(first + kRows, cols) : cols;
    for (int64_t j = 0; j < cols; ++j) {
      const int64_t col = b * cols + j;
      T sj[D], gj[D];
      for (int d = 0; d < D; ++d) {
        sj[d] = a.col_score ? a.col_score[col * D + d] : T(0);
        gj[d] = a.col_grad_phi ? a.col_grad_phi[col * D + d] : T(0);
      }
      const T hj = a.col_grad_trace ? a.col_grad_trace[col] * h_sign : T(0);
      if (j >= self_begin && j < self_end) {
        column<true>(a.col_x + col * D, sj, gj, hj, beta_v, scale, first, j);
      } else {
        column<false>(a.col_x + col * D, sj, gj, hj, beta_v, scale, first, j);
      }
    }
    finish(a, b, first, beta);
  }

  void finish(const FieldGradArgs<T>& a, int64_t b, int64_t first, T beta) {
    T out_x[D][kRows], out_s[D][kRows], out_value[kRows], out_log_sigma[kRows];
    for (int v = 0; v < kVectors; ++v) {
      store(&out_value[v * kLanes<T>], value[v]);
      store(&out_log_sigma[v * kLanes<T>], log_sigma[v]);
      for (int d = 0; d < D; ++d) {
        store(&out_x[d][v * kLanes<T>], beta * (g(d, v) * kappa_sum[v] + s(d, v) * kappa_h[v] - gx[d][v]));
        store(&out_s[d][v * kLanes<T>], gs[d][v]);
      }
    }
    const int64_t count = std::min<int64_t>(kRows, a.shape.rows - first);
    for (int64_t l = 0; l < count; ++l) {
      finish_backward<T, T>(a, b, first + l, {&out_x[0][l], &out_s[0][l], kRows, out_value[l], out_log_sigma[l]});
    }
  }
};

template <class Pass, class Args>
void run_pass(const Args& a) {
  constexpr int64_t kRows = Pass::kRows;
  const int64_t blocks = (a.shape.rows + kRows - 1) / kRows;
  const int64_t grain = std::max<int64_t>(1, kPairsPerThread / (kRows * std::max<int64_t>(1, a.shape.cols)));
  cpu::parallel_for(0, a.shape.batch * blocks, grain, [&](int64_t begin, int64_t end) {
    Pass pass;
    for (int64_t item = begin; item < end; ++item) pass.run(a, item / blocks, item % blocks * kRows);
  });
}

template <template <class, int> class Pass, class T, class Args>
void with_dim(const Args& a) {
  switch (a.shape.dim) {
    case 1:
      return run_pass<Pass<T, 1>>(a);
    case 2:
      return run_pass<Pass<T, 2>>(a);
    case 3:
      return run_pass<Pass<T, 3>>(a);
    case 4:
      return run_pass<Pass<T, 4>>(a);
    case 5:
      return run_pass<Pass<T, 5>>(a);
    case 6:
      return run_pass<Pass<T, 6>>(a);
    case 7:
      return run_pass<Pass<T, 7>>(a);
    case 8:
      return run_pass<Pass<T, 8>>(a);
  }
}

}  // namespace

template <class T>
void field_forward_direct(const FieldArgs<T>& args) {
  with_dim<Forward, T>(args);
  for_extreme_rows(args, [&](int64_t b) { field_forward_plain(args, b, 1); });
}
template <class T>
void field_backward_direct(const FieldGradArgs<T>& args) {
  with_dim<Backward, T>(args);
  for_extreme_rows(args, [&](int64_t b) { field_backward_plain(args, b, 1); });
}

template void field_forward_direct(const FieldArgs<float>&);
template void field_forward_direct(const FieldArgs<double>&);
template void field_backward_direct(const FieldGradArgs<float>&);
template void field_backward_direct(const FieldGradArgs<double>&);

}  // namespace svgdx::SVGDX_ISA
