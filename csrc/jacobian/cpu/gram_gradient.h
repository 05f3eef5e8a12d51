// The adjoint of GramProblem, as csrc/jacobian/gram.h states it, in passes over rows between
// products. bar_v is dL/dv; w = dL/d|J_i|_F^2, alpha = w beta^2 / M^2.
#pragma once

#include "jacobian/cpu/gram_problem.h"

namespace svgdx::SVGDX_ISA {

template <class T, class C>
class GramGradient {
 public:
  GramGradient(const JacobianGradArgs<T>& args, double* euler, bool small)
      : args_(args),
        euler_(euler),
        p_(args.forward, small),
        m_(p_.m),
        d_(p_.d),
        alpha2_k_(spaced<C>(m_)),
        scaled_(m_, m_),
        scaled_a_(m_, m_),
        scaled_b_(m_, m_),
        bar_e_(m_, m_),
        bar_f_(m_, m_),
        bar_g_(m_, m_),
        mixed_f_(m_, m_),
        mixed_g_(m_, m_),
        score_c_(m_, d_),
        score_x_(m_, d_),
        position_x_(m_, d_),
        position_c_(m_, d_),
        more_c_(p_.low_rank || args.forward.probe ? m_ : 0, d_),
        more_x_(p_.low_rank || args.forward.probe ? m_ : 0, d_),
        rows_(m_) {
    std::fill_n(alpha2_k_.get(), spaced<C>(m_), C(0));
  }

  // Returns false, without a result, if C is float and too narrow for the batch row.
  bool run(int64_t batch) {
    if (!p_.load_row(batch)) return false;
    p_.products();
    scale_rows();
    p_.multiply({p_.kernel}, {scaled_}, bar_e_, true);
    if (p_.low_rank) {
      low_rank_products();
    } else {
      p_.multiply({p_.kernel}, {scaled_b_}, bar_f_);
      p_.multiply({p_.kernel}, {scaled_a_}, bar_g_);
      p_.multiply({scaled_b_}, {p_.f}, mixed_f_);
      p_.multiply({scaled_a_}, {p_.g}, mixed_g_);
    }
    p_.multiply.each_row(m_, [&](int64_t i) { matrix_row(i); });
    // scaled_ becomes bar_f + bar_f^T, bar_e_ becomes bar_g + bar_g^T; the columns' sums of bar_log go to rows_.
    p_.multiply.each_row((m_ + kLanes<C> - 1) / kLanes<C>, [&](int64_t strip) { symmetric_strip(strip * kLanes<C>); });
    p_.multiply({scaled_}, {p_.c}, score_c_);
    p_.multiply({p_.u, true}, {p_.x}, score_x_);
    p_.multiply({bar_e_}, {p_.x}, position_x_);
    p_.multiply({p_.u}, {p_.c}, position_c_);
    p_.multiply.each_row(m_, [&](int64_t i) { finish_row(i); });
    if (p_.low_rank) add_low_rank();
    if (args_.forward.probe) add_probe();
    p_.multiply.each_row(m_, [&](int64_t i) { write_row(i); });
    return true;
  }

 private:
  // Factors and sums of one row.
  struct Row {
    C w, alpha2, gamma, bar_k;
    C bar_a = 0, bar_b = 0, bar_rho = 0, bar_log = 0, column_log = 0, bar_u_diag = 0, bar_p = 0, bar_q = 0;
  };

  void scale_rows() {
    p_.multiply.each_row(m_, [&](int64_t i) {
      const double m2 = double(m_) * double(m_), beta = double(p_.beta);
      const double w = double(args_.grad_out[p_.batch * m_ + i]), alpha2 = 2 * w * beta * beta / m2;
      const GramSums<C>& s = p_.sums[i];
      Row& row = rows_[i];
      row = Row{C(w), C(alpha2), C(2 * w * beta / m2), C(alpha2 * (double(d_) * double(s.k) - double(s.tau)))};
      if (args_.forward.probe) row.bar_k += row.gamma * p_.particles[i].v_h;
      alpha2_k_.get()[i] = row.alpha2 * s.k;
      for (int64_t j = 0; j < m_; j += kLanes<C>) {
        store(scaled_[i] + j, C(0.5) * row.alpha2 * load(p_.kernel[i] + j));
        store(scaled_a_[i] + j, row.alpha2 * load(p_.ka[i] + j));
        store(scaled_b_[i] + j, row.alpha2 * load(p_.kb[i] + j));
      }
    });
  }

  // mixed_f_ = alpha2 (K o b) F and mixed_g_ = alpha2 (K o a) G, through D columns, as K F and K G.
  void low_rank_products() {
    p_.multiply.each_row(m_, [&](int64_t i) {
      for (int64_t k = 0; k < d_; ++k) {
        more_c_[i][k] = rows_[i].alpha2 * p_.kb_c[i][k];
        more_x_[i][k] = rows_[i].alpha2 * p_.ka_x[i][k];
      }
    });
    p_.multiply({more_c_}, {p_.c, true}, mixed_f_);
    p_.multiply({more_x_}, {p_.x, true}, mixed_g_);
    p_.multiply({p_.kernel_c}, {p_.c, true}, bar_f_);
    p_.multiply({p_.kernel_x}, {p_.x, true}, bar_g_);
  }

  // bar_f, bar_g, bar_u (in u) and bar_log (in mixed_f_) of row i; bar_p and bar_q in hc and vx.
  void matrix_row(int64_t i) {
    Row& row = rows_[i];
    const GramSums<C>& s = p_.sums[i];
    const C alpha2 = row.alpha2, beta = p_.beta;
    Vec<C> total[7] = {};
    const C own_vx = args_.forward.probe ? p_.vx[i][i] : C(0);
    for (int64_t j = 0; j < m_; j += kLanes<C>) {
      const Vec<C> kappa = load(p_.kernel[i] + j), e = load(bar_e_[i] + j);
      const auto [rho, a, b] = p_.pair(i, j);
      // With low rank, bar_f_ and bar_g_ hold K F and K G, and their own terms follow in add_low_rank.
      const Vec<C> kf = p_.low_rank ? load(bar_f_[i] + j) : load(p_.kf[i] + j);
      const Vec<C> kg = p_.low_rank ? load(bar_g_[i] + j) : load(p_.kg[i] + j);
      const Vec<C> own_f = p_.low_rank ? Vec<C>{} : load(bar_f_[i] + j);
      const Vec<C> own_g = p_.low_rank ? Vec<C>{} : load(bar_g_[i] + j);
      Vec<C> bar_kernel = alpha2 * (load(p_.ke[i] + j) + b * kf + a * kg + s.k * a * b + s.ab + a * s.b + b * s.a) +
                          load(mixed_f_[i] + j) + load(mixed_g_[i] + j) - alpha2 * s.k * rho + row.bar_k;
      if (args_.forward.probe) {
        const Vec<C> p = p_.p(i, j), q = own_vx - load(p_.vx[i] + j);
        const Vec<C> bar_p = -row.gamma * kappa * q, bar_q = -row.gamma * kappa * p;
        bar_kernel -= row.gamma * p * q;
        store(p_.hc[i] + j, bar_p);
        store(p_.vx[i] + j, bar_q);
        total[5] += bar_p;
        total[6] += bar_q;
      }
      const Vec<C> bar_log = bar_kernel * kappa, scaled = alpha2 * kappa;
      const Vec<C> bar_a = scaled * (kg + s.k * b + s.b), bar_b = scaled * (kf + s.k * a + s.a);
      const Vec<C> bar_rho = -s.k * scaled;
      const Vec<C> f = load(p_.f[i] + j), g = load(p_.g[i] + j);
      store(bar_f_[i] + j, e * g + own_f);
      store(bar_g_[i] + j, e * f + own_g - bar_b + beta * (bar_log - bar_rho));
      store(mixed_f_[i] + j, bar_log);
      total[0] += bar_a;
      total[1] += bar_b;
      total[2] += bar_rho;
      total[3] += bar_log;
      total[4] += kappa * load(alpha2_k_.get() + j);
      store(p_.u[i] + j, beta * bar_a + bar_rho);
    }
    row.bar_a = lane_sum<C>(total[0]), row.bar_b = lane_sum<C>(total[1]), row.bar_rho = lane_sum<C>(total[2]);
    row.bar_log = lane_sum<C>(total[3]), row.bar_u_diag = lane_sum<C>(total[4]);
    row.bar_p = lane_sum<C>(total[5]), row.bar_q = lane_sum<C>(total[6]);
  }

  void symmetric_strip(int64_t first) {
    const int64_t count = std::min<int64_t>(kLanes<C>, m_ - first), stride = scaled_.stride();
    Buffer<C> strip(kLanes<C> * stride);
    const auto transposed = [&](const Matrix<C>& matrix) {
      small_transpose<C>(m_, count, matrix[0] + first, stride, strip.get(), stride);
    };
    const auto add = [&](const Matrix<C>& matrix, const Matrix<C>& sum) {
      transposed(matrix);
      for (int64_t r = 0; r < count; ++r) {
        for (int64_t j = 0; j < m_; j += kLanes<C>) {
          store(sum[first + r] + j, load(matrix[first + r] + j) + load(strip.get() + r * stride + j));
        }
      }
    };
    add(bar_f_, scaled_);
    add(bar_g_, bar_e_);
    transposed(mixed_f_);
    for (int64_t r = 0; r < count; ++r) {
      Vec<C> sum{};
      for (int64_t j = 0; j < m_; j += kLanes<C>) sum += load(strip.get() + r * stride + j);
      rows_[first + r].column_log = lane_sum<C>(sum);
    }
  }

  // dL/dscore to score_c_ and dL/dx but for - beta dL/dscore to position_x_.
  void finish_row(int64_t i) {
    const Row& row = rows_[i];
    const C beta = p_.beta;
    const C diagonal = beta * beta * row.bar_a + row.bar_b + beta * (C(2) * row.bar_rho - row.bar_log - row.column_log);
    const C bar_u = row.bar_u_diag;
    for (int64_t k = 0; k < d_; k += kLanes<C>) {
      const Vec<C> x = load(p_.x[i] + k), c = load(p_.c[i] + k);
      store(score_c_[i] + k, load(score_c_[i] + k) + load(score_x_[i] + k) + bar_u * x);
      store(position_x_[i] + k, load(position_x_[i] + k) + load(position_c_[i] + k) + diagonal * x + bar_u * c);
    }
  }

  // (T + T^T) C with T = K diag(alpha2) (K o b), and the same of K o a with X.
  void add_low_rank() {
    const auto add = [&](const Matrix<C>& scaled_product, const Matrix<C>& scaled, const Matrix<C>& product,
                         const Matrix<C>& sum) {
      p_.multiply({p_.kernel}, {scaled_product}, score_x_);
      p_.multiply({scaled, true}, {product}, position_c_);
      p_.multiply.each_row(m_, [&](int64_t i) {
        for (int64_t k = 0; k < d_; ++k) sum[i][k] += score_x_[i][k] + position_c_[i][k];
      });
    };
    add(more_c_, scaled_b_, p_.kernel_c, score_c_);
    add(more_x_, scaled_a_, p_.kernel_x, position_x_);
  }

  // Through p and q.
  void add_probe() {
    const double m2 = double(m_) * double(m_);
    const auto add = [&](Factor<C> factor, const Matrix<C>& matrix, const Matrix<C>& sum, C sign) {
      p_.multiply(factor, {matrix}, more_c_);
      p_.multiply.each_row(m_, [&](int64_t i) {
        for (int64_t k = 0; k < d_; ++k) sum[i][k] += sign * more_c_[i][k];
      });
    };
    add({p_.hc, true}, p_.h, score_c_, C(1));
    add({p_.vx, true}, p_.v, position_x_, C(-1));
    p_.multiply({p_.hc}, {p_.c}, score_x_);
    p_.multiply({p_.vx}, {p_.x}, position_c_);
    p_.multiply.each_row(m_, [&](int64_t i) {
      const Row& row = rows_[i];
      const C x_h = p_.beta * row.bar_p, v_h = row.gamma * p_.sums[i].k, h_h = C(2 * double(row.w) / m2);
      const int64_t at = (p_.batch * m_ + i) * d_;
      for (int64_t k = 0; k < d_; ++k) {
        position_x_[i][k] += x_h * p_.h[i][k] + row.bar_q * p_.v[i][k];
        if (args_.grad_hvp) {
          args_.grad_hvp[at + k] = T(score_x_[i][k] + x_h * p_.x[i][k] + v_h * p_.v[i][k] + h_h * p_.h[i][k]);
        }
        if (args_.grad_probe) {
          args_.grad_probe[at + k] = T(row.bar_q * p_.x[i][k] - position_c_[i][k] + v_h * p_.h[i][k]);
        }
      }
    });
  }

  void write_row(int64_t i) {
    const int64_t row = p_.batch * m_ + i;
    const double w = double(args_.grad_out[row]);
    const C beta = p_.beta;
    const C *const c = p_.c[i], *const x = p_.x[i], *const score = score_c_[i];
    C* const position = position_x_[i];
    for (int64_t k = 0; k < d_; k += kLanes<C>) store(position + k, load(position + k) - beta * load(score + k));
    T *const grad_score = args_.grad_score + row * d_, *const grad_x = args_.grad_x + row * d_;
    for (int64_t k = 0; k < d_; ++k) {
      grad_score[k] = T(score[k]);
      grad_x[k] = T(position[k]);
    }
    // Partial sums, so that an addition need not wait for the previous one; the padding of all rows is zero.
    constexpr int kPartial = 8;
    double partial[kPartial] = {}, sum = -4 * w * p_.square(i) - 2 * w * p_.cross(i);
    const auto term = [&](int64_t k) {
      return double(c[k] + beta * x[k]) * double(score[k]) - double(x[k]) * double(position[k]);
    };
    int64_t k = 0;
    for (; k + kPartial <= d_; k += kPartial) {
      for (int j = 0; j < kPartial; ++j) partial[j] += term(k + j);
    }
    for (; k < d_; ++k) sum += term(k);
    for (const double share : partial) sum += share;
    euler_[row] = sum;
  }

  const JacobianGradArgs<T>& args_;
  double* euler_;
  GramProblem<T, C> p_;
  int64_t m_, d_;
  Buffer<C> alpha2_k_;
  Matrix<C> scaled_, scaled_a_, scaled_b_;  // K, K o a and K o b, rows times alpha, alpha2 and alpha2
  Matrix<C> bar_e_, bar_f_, bar_g_, mixed_f_, mixed_g_;
  Matrix<C> score_c_, score_x_, position_x_, position_c_, more_c_, more_x_;  // (M, D)
  std::vector<Row> rows_;
};

}  // namespace svgdx::SVGDX_ISA
