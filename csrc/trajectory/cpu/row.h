// One row of masked logits in a buffer of the compute type, with -inf for invalid actions; log-sum-exp and gradient
// then need not read the mask again.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/half.h"
#include "common/vec_products.h"
#include "common/vec_rows.h"
#include "trajectory/policy.h"

namespace svgdx::SVGDX_ISA {

template <class C>
using Mask = typename VecTraits<C>::Int;
template <class C>
using MaskVec = typename VecType<C>::I;

template <class C>
constexpr C kMinusInf = -std::numeric_limits<C>::infinity();
template <class C>
constexpr C kLog2e = C(1.4426950408889634);

template <class C>
SVGDX_INLINE int64_t padded(int64_t n) {
  return (n + kLanes<C> - 1) / kLanes<C> * kLanes<C>;
}

// By halving, as lane_sum.
template <class C, int S = kLanes<C> / 2>
SVGDX_INLINE C horizontal_max(Vec<C> v) {
  if constexpr (S == 0) {
    return v[0];
  } else {
    return horizontal_max<C, S / 2>(larger<C>(v, rotated<C, S>(v, std::make_index_sequence<kLanes<C>>())));
  }
}

template <class C>
SVGDX_INLINE MaskVec<C> load_mask(const Mask<C>* p) {
  MaskVec<C> v;
  memcpy(&v, p, sizeof v);
  return v;
}

// The row in the compute type: itself, or widened into `wide`.
template <class S, class C>
SVGDX_INLINE const C* as_compute(const S* row, int64_t n, C* wide) {
  if constexpr (std::is_same_v<S, C>) {
    return row;
  } else {
    for (int64_t i = 0; i < n; ++i) wide[i] = widen(row[i]);
    return wide;
  }
}

// Copies n logits to out (padded), with -inf for entries that are invalid at t according to set_times (padded); returns
// the largest. Entries that are void at t are valid with kVoid, otherwise those that are set.
template <bool kVoid, class C>
SVGDX_INLINE C fill_masked(const C* logits, int64_t n, const Mask<C>* set_times, int64_t t, C* out) {
  const MaskVec<C> now = MaskVec<C>{} + Mask<C>(t);
  const Vec<C> nothing = splat(kMinusInf<C>);
  Vec<C> most = nothing, also = nothing;  // two chains, so that one maximum need not wait for the other
  const auto one = [&](int64_t i, Vec<C> v, Vec<C>& most) {
    const MaskVec<C> time = load_mask<C>(set_times + i);
    if constexpr (kVoid) {
      v = time >= now ? v : nothing;
    } else {
      v = time < now ? v : nothing;
    }
    store(out + i, v);
    most = larger<C>(v, most);
  };
  int64_t i = 0;
  for (; i + 2 * kLanes<C> <= n; i += 2 * kLanes<C>) {
    one(i, load(logits + i), most);
    one(i + kLanes<C>, load(logits + i + kLanes<C>), also);
  }
  for (; i + kLanes<C> <= n; i += kLanes<C>) one(i, load(logits + i), most);
  if (i < n) one(i, load_some(logits + i, n - i), also);
  return horizontal_max<C>(larger<C>(most, also));
}

// Log-sum-exp of the n entries of a padded buffer whose largest is `most`. Prefetches the logits of the caller's next
// row: the exponentials hide the memory latency.
template <class C, class S>
SVGDX_INLINE C log_sum_exp(const C* buffer, int64_t n, C most, const S* next) {
  const Vec<C> scale = splat(kLog2e<C>), largest = splat(most);
  Vec<C> sums[2] = {Vec<C>{}, Vec<C>{}};
  const int64_t end = padded<C>(n);
  int64_t i = 0;
  for (; i + 2 * kLanes<C> <= end; i += 2 * kLanes<C>) {
    __builtin_prefetch(next + i);
    __builtin_prefetch(next + i + kLanes<C>);
    sums[0] += exp2_nonpositive<C>((load(buffer + i) - largest) * scale);
    sums[1] += exp2_nonpositive<C>((load(buffer + i + kLanes<C>) - largest) * scale);
  }
  if (i < end) sums[0] += exp2_nonpositive<C>((load(buffer + i) - largest) * scale);
  return most + std::log(lane_sum<C>(sums[0] + sums[1]));
}

// Replaces buffer (padded) by -upstream softmax and adds upstream at `taken`: the gradient in the row's n logits.
// Prefetches the next row's logits and the memory of this row's gradient.
template <class C, class S>
SVGDX_INLINE void log_softmax_grad_row(C* buffer, int64_t n, C normalizer, C upstream, int64_t taken, const S* next,
                                       const S* out) {
  const Vec<C> scale = splat(kLog2e<C>), shift = splat(normalizer), factor = splat(-upstream), nothing = Vec<C>{};
  for (int64_t i = 0; i < n; i += kLanes<C>) {
    __builtin_prefetch(next + i);
    __builtin_prefetch(out + i, 1);
    const Vec<C> v = load(buffer + i);
    const Vec<C> g = factor * exp2_nonpositive<C>((v - shift) * scale);
    // The gradient of an invalid entry is exactly zero, whatever the upstream gradient.
    store(buffer + i, v == splat(kMinusInf<C>) ? nothing : g);
  }
  buffer[taken] += upstream;
}

template <class S, class C>
SVGDX_INLINE void write_row(const C* values, int64_t n, S* out) {
  if constexpr (std::is_same_v<S, C>) {
    memcpy(out, values, n * sizeof(C));
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] = narrow<S>(values[i]);
  }
}

}  // namespace svgdx::SVGDX_ISA
