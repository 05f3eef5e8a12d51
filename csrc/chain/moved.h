// Metropolis-Hastings in a chain, shared by both backends: the direction of a particle that alone is moved, and whether
// it accepts.
//
// With particle i at y_i instead of x_i, the field's sums lose its own pair, k_i z_i with r_i = y_i - x_i,
// k_i = exp(-beta |r_i|^2 / 2), z_i = s_i + beta r_i, and gain the score at y_i:
//   phi_i = field_i + (s(y_i) - k_i z_i) / M,   t_i = divergence_i - (beta / M) k_i (D - r_i . z_i).
#pragma once

#include <cmath>

#include "chain/moves.h"
#include "common/hd.h"

namespace svgdx::chain {

// The logarithm of zero.
template <class T>
SVGDX_HD T none() {
  return -T(__builtin_huge_valf());
}

template <class T>
SVGDX_HD T own_kernel(T beta, T r_square) {
  return std::exp(T(-0.5) * beta * r_square);
}

template <class T>
SVGDX_HD T moved_phi(T field, T query_score, T kernel, T beta, T score, T r, T count) {
  return field + (query_score - kernel * (score + beta * r)) / count;
}

template <class T>
SVGDX_HD T moved_trace(T divergence, T kernel, T beta, T dim, T r_dot_z, T count) {
  return divergence - beta / count * kernel * (dim - r_dot_z);
}

template <class T>
SVGDX_HD T log_add(T a, T b) {
  const T most = a > b || a != a ? a : b, least = a > b || a != a ? b : a;
  if (most == none<T>()) return most;
  return most + std::log1p(std::exp(least - most));
}

// min(0, log ratio) of a proposal; -inf if it is not possible or the ratio is NaN.
template <class T>
SVGDX_HD T log_alpha(T log_ratio, bool possible) {
  if (!possible || log_ratio != log_ratio) return none<T>();
  return log_ratio < T(0) ? log_ratio : T(0);
}

// log [alpha exp(-gain) + 1 - alpha], and its derivatives in log alpha and in gain, which have no NaN if alpha is 0
// or 1.
template <class T>
struct Mixed {
  T value, of_log_alpha, of_gain;
};

template <class T>
SVGDX_HD Mixed<T> mixed(T log_alpha, T gain) {
  const bool rejects = log_alpha < T(-1e-12), never = log_alpha == none<T>();
  const T rest = rejects ? std::log(-std::expm1(log_alpha)) : none<T>();
  const T moved = never ? none<T>() : log_alpha - gain;
  Mixed<T> result{log_add(moved, rest), T(0), T(0)};
  if (never) return result;
  const T share = std::exp(moved - result.value);  // of the first of both summands
  result.of_gain = -share;
  result.of_log_alpha = share;
  // d log(1 - alpha) / d log alpha = -alpha / (1 - alpha).
  if (rejects) result.of_log_alpha -= std::exp(log_alpha - result.value);
  return result;
}

// A particle's decision between staying, moving ahead and moving back.
template <class T>
struct Decision {
  T change;              // of log q: log (1/2) sum_c [alpha_c |det|^-c + 1 - alpha_c]
  bool ahead, accepted;  // which proposal was drawn, and whether it is accepted
  // The derivatives of the change in log p there, log p of the proposals ahead and back, and the gains.
  T of_here, of_ahead, of_back, of_gain, of_gain_back;
};

template <class T>
SVGDX_HD Decision<T> decide(T here, T log_p_ahead, T log_p_back, T gain, T gain_back, bool can_ahead, bool can_back,
                            T toss, T chance) {
  const T ratio = log_p_ahead - here + gain, ratio_back = log_p_back - here - gain_back;
  const T alpha = log_alpha(ratio, can_ahead), alpha_back = log_alpha(ratio_back, can_back);
  const Mixed<T> ahead = mixed(alpha, gain), back = mixed(alpha_back, -gain_back);
  Decision<T> decision{};
  const T sum = log_add(ahead.value, back.value);
  decision.change = sum - T(0.6931471805599453);
  decision.ahead = toss < T(0.5);
  decision.accepted = std::log(chance) < (decision.ahead ? alpha : alpha_back);
  const T share = std::exp(ahead.value - sum), share_back = std::exp(back.value - sum);
  // A ratio above 1 is cut off.
  const T of_ratio = can_ahead && ratio <= T(0) ? share * ahead.of_log_alpha : T(0);
  const T of_ratio_back = can_back && ratio_back <= T(0) ? share_back * back.of_log_alpha : T(0);
  decision.of_ahead = of_ratio;
  decision.of_back = of_ratio_back;
  decision.of_here = -of_ratio - of_ratio_back;
  decision.of_gain = share * ahead.of_gain + of_ratio;
  decision.of_gain_back = -share_back * back.of_gain - of_ratio_back;
  return decision;
}

template <class T>
SVGDX_HD Decision<T> decide(const AcceptArgs<T>& args, int64_t r) {
  return decide(args.here[r], args.log_p_ahead[r], args.log_p_back[r], args.gain[r], args.gain_back[r],
                args.can_ahead[r], args.can_back[r], args.toss[r], args.chance[r]);
}

// One number of a particle's next position, and of the gradients in its three candidates.
template <class T>
SVGDX_HD const T* chosen(const AcceptArgs<T>& args, const Decision<T>& decision) {
  return !decision.accepted ? args.x : decision.ahead ? args.ahead : args.back;
}

template <class T>
SVGDX_HD void share_gradient(const AcceptGradArgs<T>& args, const Decision<T>& decision, int64_t e) {
  const T grad = args.grad_next == nullptr ? T(0) : args.grad_next[e];
  args.grad_x[e] = decision.accepted ? T(0) : grad;
  args.grad_ahead[e] = decision.accepted && decision.ahead ? grad : T(0);
  args.grad_back[e] = decision.accepted && !decision.ahead ? grad : T(0);
}

template <class T>
SVGDX_HD void store_gradients(const AcceptGradArgs<T>& args, const Decision<T>& decision, int64_t r) {
  const T grad = args.grad_change == nullptr ? T(0) : args.grad_change[r];
  args.grad_here[r] = grad * decision.of_here;
  args.grad_log_p_ahead[r] = grad * decision.of_ahead;
  args.grad_log_p_back[r] = grad * decision.of_back;
  args.grad_gain[r] = grad * decision.of_gain;
  args.grad_gain_back[r] = grad * decision.of_gain_back;
}

}  // namespace svgdx::chain
