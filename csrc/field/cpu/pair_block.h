// A block of particles as the symmetric kernel reads it: prepared from the inputs each time, because that costs little
// beside its pairs, and so takes no memory. The algebra is that of pack.h, without the factor sqrt(beta log2 e).
#pragma once

#include <algorithm>

#include "common/vec_products.h"
#include "field/cpu/expanded.h"
#include "memory/buffer.h"

namespace svgdx::SVGDX_ISA {

constexpr int64_t kPairBlock = 48;  // in every instruction set a multiple of kTileRows and of kTileVectors vectors

// The inputs of one batch row, (M, D) and (M); null means zeros.
template <class T>
struct PairSource {
  const T *x, *score, *grad_phi, *grad_trace;
};

// The scalars of all particles of a batch row, padded to whole blocks; hb and delta with gradients only.
template <class C>
struct PairScalars {
  C *n, *w, *hb, *delta;
};

template <class T, class C>
class PairBlock {
 public:
  PairBlock(int64_t dim, bool gradients)
      : dim_(dim),
        width_(padded_to_lanes<C>(dim)),
        stride_(width_ * sizeof(C) % 512 == 0 ? width_ + kLanes<C> : width_),
        gradients_(gradients),
        x_(kPairBlock * stride_),
        cq_(kPairBlock * (gradients ? 2 : 1) * stride_),
        x_t_(dim * kPairBlock),
        c_t_(gradients ? dim * kPairBlock : 0),
        q_t_(gradients ? dim * kPairBlock : 0) {
    std::fill_n(x_.get(), kPairBlock * stride_, C(0));
    std::fill_n(cq_.get(), kPairBlock * (gradients ? 2 : 1) * stride_, C(0));
  }

  int64_t first = 0, count = 0;
  int64_t dim() const { return dim_; }
  int64_t width() const { return width_; }
  int64_t stride() const { return stride_; }
  int64_t cq_stride() const { return gradients_ ? 2 * stride_ : stride_; }
  const C* x() const { return x_.get(); }      // (kPairBlock, stride), centred
  const C* cq() const { return cq_.get(); }    // (kPairBlock, cq_stride): C, then q
  const C* x_t() const { return x_t_.get(); }  // (dim, kPairBlock), as c_t and q_t
  const C* c_t() const { return c_t_.get(); }
  const C* q_t() const { return q_t_.get(); }

  // Row `lane` of the block with its scalars.
  ExpandedRow<C> row(int64_t lane, const PairScalars<C>& s) const {
    const int64_t i = first + lane;
    const C* const c = cq_.get() + lane * cq_stride();
    const C *const hb = s.hb ? s.hb + i : nullptr, *const delta = s.delta ? s.delta + i : nullptr;
    return {x_.get() + lane * stride_, c, c + stride_, s.n[i], s.w[i], hb ? *hb : C(0), delta ? *delta : C(0)};
  }

  // Reads the particles [begin, begin + rows), without the transposes.
  void read_rows(const PairSource<T>& s, int64_t begin, int64_t rows, const C* centre, C beta, C h_sign) {
    first = begin, count = rows;
    for (int64_t lane = 0; lane < kPairBlock; ++lane) {
      C *const x = x_.get() + lane * stride_, *const c = cq_.get() + lane * cq_stride(), *const q = c + stride_;
      if (lane >= count) {
        std::fill_n(x, dim_, C(0));
        std::fill_n(c, dim_, C(0));
        if (gradients_) std::fill_n(q, dim_, C(0));
        continue;
      }
      const int64_t j = first + lane, at = j * dim_;
      for (int64_t d = 0; d < dim_; ++d) x[d] = C(s.x[at + d]) - centre[d];
      for (int64_t d = 0; d < dim_; ++d) c[d] = (s.score ? C(s.score[at + d]) : C(0)) - beta * x[d];
      if (!gradients_) continue;
      const C bh = s.grad_trace ? beta * (C(s.grad_trace[j]) * h_sign) : C(0);
      for (int64_t d = 0; d < dim_; ++d) q[d] = (s.grad_phi ? C(s.grad_phi[at + d]) : C(0)) - bh * x[d];
    }
  }
  void transpose() {
    small_transpose<C>(kPairBlock, dim_, x_.get(), stride_, x_t_.get(), kPairBlock);
    if (!gradients_) return;
    small_transpose<C>(kPairBlock, dim_, cq_.get(), cq_stride(), c_t_.get(), kPairBlock);
    small_transpose<C>(kPairBlock, dim_, cq_.get() + stride_, cq_stride(), q_t_.get(), kPairBlock);
  }

  // The scalars of the rows that were read.
  void write_scalars(const PairSource<T>& s, C beta, C h_sign, const PairScalars<C>& out) const {
    for (int64_t lane = 0; lane < count; ++lane) {
      const int64_t j = first + lane;
      const C *const x = x_.get() + lane * stride_, *const c = cq_.get() + lane * cq_stride();
      const C half = C(0.5) * beta * dot<C>(x, x, width_);
      out.n[j] = half * C(pair::kLog2E);
      out.w[j] = dot<C>(x, c, width_) + half;
      if (!gradients_) continue;
      const C bh = s.grad_trace ? beta * (C(s.grad_trace[j]) * h_sign) : C(0);
      out.hb[j] = bh;
      // beta g.x + beta h (D + 1 - X) with g = q + beta h x
      out.delta[j] = beta * dot<C>(x, c + stride_, width_) + bh * (C(dim_ + 1) + half);
    }
  }

 private:
  int64_t dim_, width_, stride_;
  bool gradients_;
  Buffer<C> x_, cq_, x_t_, c_t_, q_t_;
};

}  // namespace svgdx::SVGDX_ISA
