// Rows of logits as 16-byte packs. A row starts anywhere (3 D may be odd): packs lie on the boundaries of memory, and
// the two that stick out of the row are read element by element.
#pragma once

#include "common/cuda/half.cuh"
#include "common/cuda/row_group.cuh"
#include "gfn/policy.h"

namespace svgdx::cuda {

// Resident blocks asked of the compiler.
template <class S>
constexpr int kGfnBlocks = sizeof(S) == 8 ? kRowBlocks - 1 : kRowBlocks;

// For segments of `packs` packs, a lane working on up to `each`; beyond a warp's share the block takes the row.
inline RowPlan plan_rows(int64_t packs, int64_t each) {
  return {packs <= 8 ? 3 : packs <= 16 ? 4 : packs <= 32 * each ? 5 : 7};
}

template <class S>
int64_t most_packs(int64_t count) {
  return ceil_div(count, kPackWidth<S>);
}

// `count` contiguous elements, below 2^31 - 2^12; pack p holds elements [begin(p), begin(p) + width), some of them
// outside at the ends.
template <class S>
struct Segment {
  static constexpr int kWidth = kPackWidth<S>;
  using Packed = Pack<S, kWidth>;
  const S* data;
  int count, shift;

  __device__ Segment(const S* data_, int count_)
      : data(data_), count(count_), shift(int(reinterpret_cast<uintptr_t>(data_) / sizeof(S) % kWidth)) {}
  __device__ int packs() const { return count == 0 ? 0 : (count + shift + kWidth - 1) / kWidth; }
  __device__ int begin(int pack) const { return pack * kWidth - shift; }
  __device__ bool whole(int e) const { return e >= 0 && e + kWidth <= count; }
  __device__ bool holds(int e) const { return e >= 0 && e < count; }

  __device__ void load(Packed& pack, int e) const {
    if (whole(e)) {
      pack = *reinterpret_cast<const Packed*>(data + e);
      return;
    }
    SVGDX_UNROLL
    for (int w = 0; w < kWidth; ++w) pack.v[w] = holds(e + w) ? data[e + w] : S{};
  }
  // `wide`: `to` is aligned as data is.
  __device__ void store(S* to, const Packed& pack, int e, bool wide) const {
    if (wide && whole(e)) {
      *reinterpret_cast<Packed*>(to + e) = pack;
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

// Running log-sum-exp: sum = sum over the elements so far of exp(x - max). NaN and +inf make the sum NaN.
template <class C>
struct LogSum {
  C max = minus_infinity<C>(), sum = C(0);

  // What exponents are measured from: finite where nothing but -inf was seen.
  __device__ static C reference(C max) { return max == minus_infinity<C>() ? C(0) : max; }

  // The elements of a pack whose bit is set.
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
  // Of the whole group.
  __device__ LogSum total(const RowGroup& group, C* partial) const {
    LogSum all;
    all.max = group.combine(max, Larger<C>(), partial);
    all.sum = group.combine(sum * exp_of(max - reference(all.max)), Sum<C>(), partial);
    return all;
  }
  __device__ C log_sum_exp() const { return max + log_of(sum); }
  __device__ C log_prob(C x) const { return (x - max) - log_of(sum); }
};

// Loads in flight of a lane; exp takes the registers that a second pack of doubles would.
template <class S>
constexpr int kPacksAhead = sizeof(S) == 8 ? 1 : 2;

// The lane's share of a segment's log-sum-exp over the elements that `mask` allows.
template <class S, class Mask>
__device__ inline LogSum<Compute<S>> log_sum(const Segment<S>& segment, const Mask& mask, const RowGroup& group) {
  constexpr int kAhead = kPacksAhead<S>;
  LogSum<Compute<S>> sum;
  const int packs = segment.packs();
  SVGDX_UNROLL_BY(1)
  for (int p = group.lane; p < packs; p += kAhead * group.lanes) {
    typename Segment<S>::Packed pack[kAhead];
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

// What the gradient of one segment needs: upstream * ([e = taken] - exp(x - normalizer)), `blank` where masked out;
// blank everywhere, and no logit read, where `is_blank`.
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
    typename Segment<S>::Packed pack[kAhead] = {};
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
