// Draws actions. Compiled with -ffp-contract=off (CMakeLists.txt): see draw/weights.h.
#include <limits>

#include "common/buffer.h"
#include "draw/cpu/kernels.h"
#include "draw/weights.h"
#include "trajectory/cpu/row.h"

namespace svgdx::SVGDX_ISA {
namespace {

constexpr int8_t kVoid = -1;

template <class C>
struct Workspace {
  explicit Workspace(int64_t width) : row(padded<C>(width)), weights(padded<C>(width)) {}
  Buffer<C> row;
  Buffer<uint32_t> weights;
};

// Copies the valid logits to the row (padded), with -inf elsewhere, and returns the largest; NaN if one of them is NaN
// or +inf, if all are -inf, or if the state has an entry outside {-1, 0, 1}.
template <class S, class C>
C fill_valid(const SampleArgs<S>& args, const S* logits, const int8_t* state, C* row) {
  const int64_t dim = args.dim, width = args.forward ? 2 * dim : dim;
  bool is_bad = false;
  for (int64_t d = 0; d < dim; ++d) is_bad |= state[d] < -1 || state[d] > 1;
  if (args.forward) {
    for (int64_t d = 0; d < dim; ++d) {
      const C zero = widen(logits[2 * d]), one = widen(logits[2 * d + 1]);
      row[2 * d] = state[d] == kVoid ? zero : kMinusInf<C>;
      row[2 * d + 1] = state[d] == kVoid ? one : kMinusInf<C>;
    }
  } else {
    for (int64_t d = 0; d < dim; ++d) {
      const C location = widen(logits[2 * dim + d]);
      row[d] = state[d] != kVoid ? location : kMinusInf<C>;
    }
  }
  std::fill(row + width, row + padded<C>(width), kMinusInf<C>);
  C most = kMinusInf<C>;
  for (int64_t i = 0; i < width; ++i) {
    is_bad |= !(row[i] <= std::numeric_limits<C>::max());
    most = row[i] > most ? row[i] : most;
  }
  return is_bad || most == kMinusInf<C> ? std::numeric_limits<C>::quiet_NaN() : most;
}

// Computes the integer weights of the row's entries; returns their sum.
template <class S, class C>
uint64_t weigh(const SampleArgs<S>& args, const int8_t* state, bool uniform, const C* row, C most, uint32_t* weights) {
  const int64_t dim = args.dim, width = args.forward ? 2 * dim : dim;
  if (!uniform) {
    for (int64_t i = 0; i < width; ++i) weights[i] = draw_weight(float(row[i] - most), args.scale);
  } else if (args.forward) {
    for (int64_t i = 0; i < width; ++i) weights[i] = state[i / 2] == kVoid;
  } else {
    for (int64_t i = 0; i < width; ++i) weights[i] = state[i] != kVoid;
  }
  uint64_t total = 0;
  for (int64_t i = 0; i < width; ++i) total += weights[i];
  return total;
}

}  // namespace

template <class S>
void gfn_sample(const SampleArgs<S>& args, int64_t begin, int64_t end) {
  using C = Compute<S>;
  const int64_t dim = args.dim, width = args.forward ? 2 * dim : dim;
  Workspace<C> work(width);
  C* row = work.row.get();
  uint32_t* weights = work.weights.get();
  const PhiloxKey key = args.key.loaded();
  for (int64_t b = begin; b < end; ++b) {
    const int8_t* state = args.state + b * dim;
    int8_t* next = args.next_state + b * dim;
    memcpy(next, state, dim);
    const C most = fill_valid(args, args.logits + b * 3 * dim, state, row);
    if (most != most) {
      args.action[b] = -1;
      if (args.log_prob) args.log_prob[b] = most;
      continue;
    }
    const Draw draw = draw_of(key.seed, key.offset, b, args.epsilon);
    const uint64_t total = weigh(args, state, draw.uniform, row, most, weights);
    const uint64_t threshold = draw_threshold(draw.fraction, total);
    int64_t action = 0;
    for (uint64_t below = weights[0]; below <= threshold; below += weights[action]) ++action;
    args.action[b] = action;
    if (args.log_prob) args.log_prob[b] = row[action] - log_sum_exp(row, width, most, args.logits + (b + 1) * 3 * dim);
    if (args.forward) {
      next[action / 2] = int8_t(action % 2);
    } else {
      next[action] = kVoid;
    }
  }
}

template void gfn_sample(const SampleArgs<float>&, int64_t, int64_t);
template void gfn_sample(const SampleArgs<double>&, int64_t, int64_t);
template void gfn_sample(const SampleArgs<Bf16>&, int64_t, int64_t);
template void gfn_sample(const SampleArgs<Fp16>&, int64_t, int64_t);

}  // namespace svgdx::SVGDX_ISA
