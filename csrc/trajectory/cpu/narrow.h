// Rows with few logits, a row in each lane: a row of its own would fill a part of one vector.
#pragma once

#include <algorithm>

#include "common/vec_math.h"
#include "common/vec_products.h"
#include "trajectory/args.h"
#include "trajectory/cpu/row.h"

namespace svgdx::SVGDX_ISA {

// Dimensions up to which a row in each lane is faster.
template <class C>
constexpr int64_t kNarrowDim = kLanes<C>;

// columns[c] = entry c of every row, for rows of `width` numbers.
template <class C>
SVGDX_INLINE void to_columns(const C* const* rows, int64_t width, Vec<C>* columns) {
  constexpr int64_t kCount = kLanes<C>;
  for (int64_t first = 0; first < width; first += kCount) {
    const int64_t count = std::min(kCount, width - first);
    Vec<C> tile[kCount];
    for (int l = 0; l < kCount; ++l)
      tile[l] = count == kCount ? load(rows[l] + first) : load_some(rows[l] + first, count);
    transpose_lanes<C, kCount / 2>(tile);
    for (int64_t c = 0; c < count; ++c) columns[first + c] = tile[c];
  }
}

// Writes the first `count` rows of `width` numbers back, `width` apart.
template <class C>
SVGDX_INLINE void from_columns(const Vec<C>* columns, int64_t count, int64_t width, C* rows) {
  constexpr int64_t kCount = kLanes<C>;
  for (int64_t first = 0; first < width; first += kCount) {
    const int64_t left = std::min(kCount, width - first);
    Vec<C> tile[kCount] = {};
    for (int64_t c = 0; c < left; ++c) tile[c] = columns[first + c];
    transpose_lanes<C, kCount / 2>(tile);
    for (int64_t l = 0; l < count; ++l) {
      C* const to = rows + l * width + first;
      left == kCount ? store(to, tile[l]) : store_some(to, left, tile[l]);
    }
  }
}

// ln x for 1 <= x <= 2^100; NaN propagates.
template <class C>
SVGDX_INLINE Vec<C> log_above_one(Vec<C> x) {
  constexpr int kMantissa = sizeof(C) == 8 ? 52 : 23;
  constexpr Mask<C> kBias = sizeof(C) == 8 ? 1023 : 127;
  const MaskVec<C> bits = (MaskVec<C>)x, exponent = (bits >> kMantissa) - kBias;
  const Vec<C> mantissa = (Vec<C>)(bits - (exponent << kMantissa));  // in [1, 2)
  const Vec<C> log = VecMath<C>::log1p(mantissa - splat(C(1))) +
                     __builtin_convertvector(exponent, Vec<C>) * splat(C(0.6931471805599453));
  return x == x ? log : x;
}

// kLanes rows from a first one on; of those past the last row, every lane repeats the first.
template <class S>
class NarrowRows {
  using C = Compute<S>;
  static constexpr int kCount = kLanes<C>;

 public:
  NarrowRows(const TrajectoryShape& shape, const int64_t* actions, const int32_t* set_time)
      : shape_(shape),
        actions_(actions),
        set_time_(set_time),
        wide_(std::is_same_v<S, C> ? 0 : kCount * 3 * shape.dim) {}

  // Rows `row` .. `row` + count - 1 of the B (T + 1), whose logits are at `logits`.
  void read(int64_t row, int64_t rows, const S* logits) {
    count = rows;
    const int64_t dim = shape_.dim, states = shape_.steps + 1, width = 3 * dim;
    const C* const values = as_compute(logits, count * width, wide_.get());
    const C* starts[kCount];
    const int32_t* sets[kCount];
    int64_t batch = row / states, step = row % states;
    for (int l = 0; l < kCount; ++l) {
      const bool here = l < count;
      starts[l] = values + (here ? l : 0) * width;
      sets[l] = here ? read_lane(l, batch, step) : read_lane(l, trajectory[0], time[0]);
      if (here && ++step == states) {
        step = 0;
        ++batch;
      }
    }
    to_columns(starts, width, columns);
    if constexpr (sizeof(C) == sizeof(int32_t)) {  // the bits of a column of C
      to_columns(reinterpret_cast<const C* const*>(sets), dim + 1, reinterpret_cast<Vec<C>*>(times));
    } else {
      for (int64_t d = 0; d <= dim; ++d) {
        for (int l = 0; l < kCount; ++l) times[d][l] = sets[l][d];
      }
    }
    valid = times[dim] != 0;
  }

  // Entry 2 d + bit of P_F, or entry d of P_B, or -inf where it is no valid action.
  Vec<C> forward(int64_t entry) const { return times[entry / 2] >= time ? columns[entry] : splat(kMinusInf<C>); }
  Vec<C> backward(int64_t d) const { return times[d] < time ? columns[2 * shape_.dim + d] : splat(kMinusInf<C>); }

  C* wide() { return wide_.get(); }

  int64_t count = 0;
  int64_t trajectory[kCount];
  Vec<C> columns[3 * kNarrowDim<C>];
  MaskVec<C> times[kNarrowDim<C> + 1], time, valid;
  MaskVec<C> action, location;  // taken at the row, and erased from it; -1: none

 private:
  // Returns the lane's entry of set_time.
  const int32_t* read_lane(int l, int64_t batch, int64_t step) {
    const int64_t* const actions = actions_ + batch * shape_.steps;
    trajectory[l] = batch;
    time[l] = Mask<C>(step);
    action[l] = step < shape_.steps ? Mask<C>(actions[step]) : Mask<C>(-1);
    location[l] = step > 0 ? Mask<C>(actions[step - 1] / 2) : Mask<C>(-1);
    return set_time_ + batch * (shape_.dim + 1);
  }

  const TrajectoryShape& shape_;
  const int64_t* actions_;
  const int32_t* set_time_;
  Buffer<C> wide_;
};

template <class C>
struct LogProb {
  Vec<C> normalizer, log_prob;
};

// Log-sum-exp of `count` masked logits and log-probability of the one that is taken; zeros in lanes that take none.
template <class C, class F>
SVGDX_INLINE LogProb<C> narrow_log_prob(int64_t count, MaskVec<C> taken, MaskVec<C> valid, const F& logit) {
  Vec<C> most = splat(kMinusInf<C>), sum = {}, own = {};
  for (int64_t i = 0; i < count; ++i) most = larger<C>(logit(i), most);
  for (int64_t i = 0; i < count; ++i) {
    const Vec<C> v = logit(i);
    sum += exp2_nonpositive<C>((v - most) * splat(kLog2e<C>));
    own = taken == MaskVec<C>{} + Mask<C>(i) ? v : own;
  }
  const Vec<C> nan = splat(std::numeric_limits<C>::quiet_NaN()), normalizer = most + log_above_one<C>(sum);
  const MaskVec<C> takes = taken >= 0;
  return {valid ? takes ? normalizer : Vec<C>{} : nan, valid ? takes ? own - normalizer : Vec<C>{} : nan};
}

template <class S>
void narrow_rows(const TrajectoryRows<S>& args, int64_t begin, int64_t end) {
  using C = Compute<S>;
  const int64_t dim = args.shape.dim;
  NarrowRows<S> rows(args.shape, args.actions, args.set_time);
  for (int64_t i = begin; i < end; i += kLanes<C>) {
    const int64_t row = args.first_row + i;
    rows.read(row, std::min<int64_t>(kLanes<C>, end - i), args.logits + i * 3 * dim);
    const LogProb<C> forward =
        narrow_log_prob<C>(2 * dim, rows.action, rows.valid, [&](int64_t e) { return rows.forward(e); });
    const LogProb<C> backward =
        narrow_log_prob<C>(dim, rows.location, rows.valid, [&](int64_t d) { return rows.backward(d); });
    for (int64_t l = 0; l < rows.count; ++l) {
      args.normalizers[2 * (row + l)] = forward.normalizer[l];
      args.normalizers[2 * (row + l) + 1] = backward.normalizer[l];
      args.row_log_prob[2 * (row + l)] = forward.log_prob[l];
      args.row_log_prob[2 * (row + l) + 1] = backward.log_prob[l];
    }
  }
}

// One direction's softmax in every lane: its upstream gradient, normalizer, and the entry that is taken.
template <class C>
struct NarrowGrad {
  Vec<C> upstream = {}, normalizer = {};
  MaskVec<C> taken, valid;

  SVGDX_INLINE Vec<C> of(int64_t entry, Vec<C> logit) const {
    const Vec<C> share = -upstream * exp2_nonpositive<C>((logit - normalizer) * splat(kLog2e<C>));
    // The gradient of an invalid entry is exactly zero, whatever the upstream gradient.
    const Vec<C> rest = logit == splat(kMinusInf<C>) ? Vec<C>{} : share;
    const Vec<C> grad = taken == MaskVec<C>{} + Mask<C>(entry) ? rest + upstream : rest;
    return valid ? taken >= 0 ? grad : Vec<C>{} : splat(std::numeric_limits<C>::quiet_NaN());
  }
};

template <class S>
void narrow_rows_backward(const TrajectoryRowsGrad<S>& args, int64_t begin, int64_t end) {
  using C = Compute<S>;
  const int64_t dim = args.shape.dim, width = 3 * dim;
  const MaskVec<C> none = MaskVec<C>{} - 1;
  NarrowRows<S> rows(args.shape, args.actions, args.set_time);
  for (int64_t i = begin; i < end; i += kLanes<C>) {
    const int64_t row = args.first_row + i;
    rows.read(row, std::min<int64_t>(kLanes<C>, end - i), args.logits + i * width);
    NarrowGrad<C> forward, backward;
    forward.valid = backward.valid = rows.valid;
    forward.taken = args.grad_log_pf ? rows.action : none;
    backward.taken = args.grad_log_pb ? rows.location : none;
    for (int64_t l = 0; l < rows.count; ++l) {
      if (args.grad_log_pf) forward.upstream[l] = args.grad_log_pf[rows.trajectory[l]];
      if (args.grad_log_pb) backward.upstream[l] = args.grad_log_pb[rows.trajectory[l]];
      forward.normalizer[l] = args.normalizers[2 * (row + l)];
      backward.normalizer[l] = args.normalizers[2 * (row + l) + 1];
    }
    for (int64_t e = 0; e < 2 * dim; ++e) rows.columns[e] = forward.of(e, rows.forward(e));
    for (int64_t d = 0; d < dim; ++d) rows.columns[2 * dim + d] = backward.of(d, rows.backward(d));
    if constexpr (std::is_same_v<S, C>) {
      from_columns(rows.columns, rows.count, width, args.grad_logits + i * width);
    } else {
      from_columns(rows.columns, rows.count, width, rows.wide());
      write_row(rows.wide(), rows.count * width, args.grad_logits + i * width);
    }
  }
}

}  // namespace svgdx::SVGDX_ISA
