// Draws actions. Compiled with -ffp-contract=off (CMakeLists.txt): see draw/weights.h.
#include <limits>

#include "draw/cpu/kernels.h"
#include "draw/weights.h"
#include "memory/buffer.h"
#include "trajectory/cpu/row.h"

namespace svgdx::SVGDX_ISA {
namespace {

constexpr int8_t kVoid = -1;

template <class C>
struct Workspace {
  Workspace(int64_t width, int64_t logits)
      : row(padded<C>(width)), valid(padded<C>(width)), wide(logits), weights(padded<C>(width)) {
    std::fill(valid.get() + width, valid.get() + padded<C>(width), Mask<C>(0));
  }
  Buffer<C> row;
  Buffer<Mask<C>> valid;  // -1 if an entry is valid, else 0
  Buffer<C> wide;
  Buffer<uint32_t> weights;
};

// Copies the valid logits to the row (padded), with -inf elsewhere, and returns the largest; NaN if one of them is NaN
// or +inf, if all are -inf, or if the state has an entry outside {-1, 0, 1}.
template <class S, class C>
C fill_valid(const SampleArgs<S>& args, const S* logits, const int8_t* __restrict state, const Workspace<C>& work) {
  const int64_t dim = args.dim, width = args.forward ? 2 * dim : dim;
  uint8_t is_bad = 0;
  for (int64_t d = 0; d < dim; ++d) is_bad |= uint8_t(uint8_t(state[d] + 1) > 2);
  Mask<C>* __restrict valid = work.valid.get();
  if (args.forward) {
    for (int64_t d = 0; d < dim; ++d) valid[2 * d] = valid[2 * d + 1] = -Mask<C>(state[d] == kVoid);
  } else {
    for (int64_t d = 0; d < dim; ++d) valid[d] = -Mask<C>(state[d] != kVoid);
  }
  const C* from = as_compute(args.forward ? logits : logits + 2 * dim, width, work.wide.get());
  const Vec<C> nothing = splat(kMinusInf<C>), largest = splat(std::numeric_limits<C>::max());
  Vec<C> most = nothing;
  MaskVec<C> infinite{};
  for (int64_t i = 0; i < width; i += kLanes<C>) {
    Vec<C> v = i + kLanes<C> <= width ? load(from + i) : load_some(from + i, width - i);
    v = load_mask<C>(valid + i) < 0 ? v : nothing;
    store(work.row.get() + i, v);
    infinite |= ~(v <= largest);  // also NaN, which the maximum loses
    most = larger<C>(v, most);
  }
  for (int lane = 0; lane < kLanes<C>; ++lane) is_bad |= uint8_t(infinite[lane] != 0);
  const C result = horizontal_max<C>(most);
  return is_bad || result == kMinusInf<C> ? std::numeric_limits<C>::quiet_NaN() : result;
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

// The first action whose cumulative weight exceeds the threshold; whole blocks of smaller sums are skipped.
int64_t action_at(const uint32_t* weights, int64_t width, uint64_t threshold) {
  constexpr int64_t kBlock = 32;
  int64_t action = 0;
  uint64_t below = 0;
  for (; action + kBlock < width; action += kBlock) {
    uint64_t sum = below;
    for (int64_t k = 0; k < kBlock; ++k) sum += weights[action + k];
    if (sum > threshold) break;
    below = sum;
  }
  for (below += weights[action]; below <= threshold; below += weights[action]) ++action;
  return action;
}

}  // namespace

template <class S>
void gfn_sample(const SampleArgs<S>& args, int64_t begin, int64_t end) {
  using C = Compute<S>;
  const int64_t dim = args.dim, width = args.forward ? 2 * dim : dim;
  Workspace<C> work(width, std::is_same_v<S, C> ? 0 : width);
  C* row = work.row.get();
  uint32_t* weights = work.weights.get();
  const PhiloxKey key = args.key.loaded();
  for (int64_t b = begin; b < end; ++b) {
    const int8_t* state = args.state + b * dim;
    int8_t* next = args.next_state + b * dim;
    memcpy(next, state, dim);
    const C most = fill_valid(args, args.logits + b * 3 * dim, state, work);
    if (most != most) {
      args.action[b] = -1;
      if (args.log_prob) args.log_prob[b] = most;
      continue;
    }
    const Draw draw = draw_of(key.seed, key.offset, b, args.epsilon);
    const uint64_t total = weigh(args, state, draw.uniform, row, most, weights);
    const int64_t action = action_at(weights, width, draw_threshold(draw.fraction, total));
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
