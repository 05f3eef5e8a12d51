// Rows of logits as 16-byte packs. A row may start at any element (3 D may be odd): packs are aligned in memory, and
// the two that extend beyond the row are read element by element.
#pragma once

#include "common/cuda/half.cuh"
#include "common/cuda/row_group.cuh"
#include "trajectory/policy.h"

namespace svgdx::cuda {

// Resident blocks requested from the compiler.
template <class S>
constexpr int kGfnBlocks = sizeof(S) == 8 ? kRowBlocks - 1 : kRowBlocks;

// A plan for segments of `packs` packs with up to `each` packs per lane; rows too long for a warp are given to the
// block.
inline RowPlan plan_rows(int64_t packs, int64_t each) {
  return {packs <= 8 ? 3 : packs <= 16 ? 4 : packs <= 32 * each ? 5 : 7};
}

template <class S>
int64_t most_packs(int64_t count) {
  return ceil_div(count, kPackWidth<S>);
}

// `count` < 2^31 - 2^12 contiguous elements; pack p holds elements [begin(p), begin(p) + width), which may extend
// beyond either end.
template <class S>
struct Segment {
  static constexpr int kWidth = kPackWidth<S>;
  const S* data;
  int count, shift;

  __device__ Segment(const S* data_, int count_)
      : data(data_), count(count_), shift(int(reinterpret_cast<uintptr_t>(data_) / sizeof(S) % kWidth)) {}
  __device__ int packs() const { return count == 0 ? 0 : (count + shift + kWidth - 1) / kWidth; }
  __device__ int begin(int pack) const { return pack * kWidth - shift; }
  __device__ bool whole(int e) const { return e >= 0 && e + kWidth <= count; }
  __device__ bool holds(int e) const { return e >= 0 && e < count; }

  __device__ void load(WidePack<S>& pack, int e) const {
    if (whole(e)) {
      pack = *reinterpret_cast<const WidePack<S>*>(data + e);
      return;
    }
    SVGDX_UNROLL
    for (int w = 0; w < kWidth; ++w) pack.v[w] = holds(e + w) ? data[e + w] : S{};
  }
  // `wide`: `to` has the alignment of `data`.
  __device__ void store(S* to, const WidePack<S>& pack, int e, bool wide) const {
    if (wide && whole(e)) {
      *reinterpret_cast<WidePack<S>*>(to + e) = pack;
      return;
    }
    SVGDX_UNROLL
    for (int w = 0; w < kWidth; ++w) {
      if (holds(e + w)) to[e + w] = pack.v[w];
    }
  }
};

template <class S>
__device__ inline bool aligned_alike(const S* a, const S* b) {
  return (reinterpret_cast<uintptr_t>(a) - reinterpret_cast<uintptr_t>(b)) % 16 == 0;
}

template <class C>
__device__ inline C minus_infinity() {
  return -static_cast<C>(__builtin_inff());
}

// Running log-sum-exp: sum = sum of exp(x - max) over the elements so far. NaN and +inf make the sum NaN.
template <class C>
struct LogSum {
  C max = minus_infinity<C>(), sum = C(0);

  // The reference for exponents, which is finite even if all elements so far are -inf.
  __device__ static C reference(C max) { return max == minus_infinity<C>() ? C(0) : max; }

  // Adds the elements of a pack whose bit is set.
  template <class S, int W>
  __device__ void add(const Pack<S, W>& pack, uint32_t bits) {
    C x[W];
    C top = minus_infinity<C>();
    SVGDX_UNROLL
    for (int w = 0; w < W; ++w) {
      x[w] = bits >> w & 1 ? to_compute(pack.v[w]) : minus_infinity<C>();
      top = ::max(top, x[w]);
    }
    if (top > max) {
      sum *= exp_of(max - top);
      max = top;
    }
    const C from = reference(max);
    SVGDX_UNROLL
    for (int w = 0; w < W; ++w) sum += exp_of(x[w] - from);
  }
  // The log-sum-exp of the whole group.
  __device__ LogSum total(const RowGroup& group, C* partial) const {
    LogSum all;
    all.max = group.combine(max, Larger<C>(), partial);
    all.sum = group.combine(sum * exp_of(max - reference(all.max)), Sum<C>(), partial);
    return all;
  }
  __device__ C log_sum_exp() const { return max + log_of(sum); }
  __device__ C log_prob(C x) const { return (x - max) - log_of(sum); }
};

// Packs that a lane loads at a time; exp needs the registers that a second pack of doubles would take.
template <class S>
constexpr int kPacksAhead = sizeof(S) == 8 ? 1 : 2;

// The lane's share of a segment's log-sum-exp, over the elements that `mask` allows.
template <class S, class Mask>
__device__ inline LogSum<Compute<S>> log_sum(const Segment<S>& segment, const Mask& mask, const RowGroup& group) {
  constexpr int kAhead = kPacksAhead<S>;
  LogSum<Compute<S>> sum;
  const int packs = segment.packs();
  SVGDX_UNROLL_BY(1)
  for (int p = group.lane; p < packs; p += kAhead * group.lanes) {
    WidePack<S> pack[kAhead];
    uint32_t bits[kAhead];
    SVGDX_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      const int e = segment.begin(p + i * group.lanes);
      bits[i] = 0;
      if (p + i * group.lanes >= packs) continue;
      segment.load(pack[i], e);
      bits[i] = mask(segment, e);
    }
    SVGDX_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      if (bits[i] != 0) sum.add(pack[i], bits[i]);
    }
  }
  return sum;
}

// The gradient of one segment: upstream * ([e = taken] - exp(x - normalizer)), or `blank` for masked elements. With
// `is_blank` it is blank everywhere and reads no logit.
template <class C>
struct SegmentGrad {
  C upstream, normalizer;
  int taken;
  C blank;
  bool is_blank;

  __device__ static SegmentGrad all(C blank) { return {C(0), C(0), -1, blank, true}; }
};

template <class S, class Mask>
__device__ inline void write_grad(const Segment<S>& segment, const Mask& mask, const RowGroup& group,
                                  const SegmentGrad<Compute<S>>& grad, S* to) {
  constexpr int kWidth = Segment<S>::kWidth, kAhead = kPacksAhead<S>;
  const bool wide = aligned_alike<S>(to, segment.data);
  const int packs = segment.packs();
  SVGDX_UNROLL_BY(1)
  for (int p = group.lane; p < packs; p += kAhead * group.lanes) {
    WidePack<S> pack[kAhead] = {};
    uint32_t bits[kAhead] = {};
    SVGDX_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      if (grad.is_blank || p + i * group.lanes >= packs) continue;
      segment.load(pack[i], segment.begin(p + i * group.lanes));
      bits[i] = mask(segment, segment.begin(p + i * group.lanes));
    }
    SVGDX_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      if (p + i * group.lanes >= packs) continue;
      const int e = segment.begin(p + i * group.lanes);
      SVGDX_UNROLL
      for (int w = 0; w < kWidth; ++w) {
        const Compute<S> probability = exp_of(to_compute(pack[i].v[w]) - grad.normalizer);
        const Compute<S> value = log_softmax_grad(grad.upstream, e + w == grad.taken, probability);
        pack[i].v[w] = to_storage<S>(bits[i] >> w & 1 ? value : grad.blank);
      }
      segment.store(to, pack[i], e, wide);
    }
  }
}

}  // namespace svgdx::cuda
