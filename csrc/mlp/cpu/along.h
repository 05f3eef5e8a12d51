// Derivatives in t, at 0, of the gradient of min(f_1, f_2) at x + t v, from what mlp/cpu/minimum.h saved: the first is
// H v, the second the gradient of v . H v in x.
#pragma once

#include "mlp/cpu/minimum.h"

namespace svgdx::cpu {

inline void check_order(const char* op, const MinimumShape& shape, const Tensor& order) {
  for (int64_t i = 0; i < shape.rows; ++i) {
    const int64_t r = data<int32_t>(order)[i], within = r < 0 ? ~r : r;
    SVGDX_CHECK(within < shape.block && i / shape.block * shape.block + within < shape.rows, op,
                "order must contain rows of a block, but contains ", r);
  }
}

template <class C>
class MlpAlong {
 public:
  MlpAlong(const MinimumShape& shape, const Tensor& direction, const Tensor& parameters, const MinimumKept& kept,
           int64_t order)
      : shape_(shape),
        weights_(shape, data<C>(parameters), true),
        direction_(data<C>(direction)),
        kept_(kept),
        streams_(order),
        first_(new_empty(direction, {shape.rows, shape.dim}, direction.scalar_type())),
        second_(new_empty(direction, {order > 1 ? shape.rows : 0, shape.dim}, direction.scalar_type())) {}

  std::tuple<Tensor, Tensor> run() {
    parallel_blocks(blocks_of(shape_), [&](int64_t begin, int64_t end) {
      // The derivatives of each hidden unit's argument, then two matrices of the widest layer.
      const int64_t most = streams_ * shape_.block * (shape_.units + 2 * std::max(shape_.widest, shape_.dim));
      const Tensor memory = new_empty(first_, {most}, first_.scalar_type());
      for (int64_t i = begin; i < end; ++i) {
        const int64_t rows = std::min(shape_.block, shape_.rows - i * shape_.block);
        const int32_t* order = data<int32_t>(kept_.order) + i * shape_.block;
        const int64_t count = std::count_if(order, order + rows, [](int32_t r) { return r >= 0; });
        for (int k = 0; k < 2; ++k) {
          part({k, i * shape_.block, k == 0 ? 0 : count, k == 0 ? count : rows - count}, out<C>(memory));
        }
      }
    });
    return {first_, second_};
  }

 private:
  // Saved rows [first + skipped, first + skipped + rows), all of network k.
  struct Rows {
    int k;
    int64_t first, skipped, rows;
    int64_t begin() const { return first + skipped; }
  };

  C* kept(const Tensor& t, int64_t layer, const Rows& at) const {
    return PerUnit<C>{out<C>(t), shape_.rows}.at(shape_, layer, at.begin());
  }
  int64_t row(const Rows& at, int64_t p) const {
    const int32_t r = data<int32_t>(kept_.order)[at.begin() + p];
    return (at.first + (r < 0 ? ~r : r)) * shape_.dim;
  }

  void part(const Rows& at, C* memory) const {
    if (at.rows == 0) return;
    const int64_t size = streams_ * at.rows;
    const PerUnit<C> arguments{memory, size};
    C* one = memory + size * shape_.units;
    C* other = one + size * std::max(shape_.widest, shape_.dim);
    for (int64_t p = 0; p < at.rows; ++p) {
      memcpy(one + p * shape_.dim, direction_ + row(at, p), shape_.dim * sizeof(C));
    }
    forward(at, arguments, one);
    back(at, arguments, one, other);
    for (int64_t p = 0; p < at.rows; ++p) {
      const int64_t to = row(at, p);
      memcpy(out<C>(first_) + to, other + p * shape_.dim, shape_.dim * sizeof(C));
      if (streams_ > 1) {
        memcpy(out<C>(second_) + to, other + (at.rows + p) * shape_.dim, shape_.dim * sizeof(C));
      }
    }
  }

  // Writes each layer's h', then h'', to `arguments`.
  void forward(const Rows& at, const PerUnit<C>& arguments, C* stacked) const {
    for (int64_t i = 0; i < shape_.layers(); ++i) {
      // The second derivative of x + t v itself is 0.
      weights_.forward(at.k, i, i == 0 ? at.rows : streams_ * at.rows, stacked, arguments.at(shape_, i));
      if (i + 1 == shape_.layers()) return;
      const int64_t count = at.rows * shape_.widths[i + 1];
      const C* first = arguments.at(shape_, i);
      const AlongLayer<C> args{count,
                               shape_.activation,
                               first,
                               i == 0 || streams_ == 1 ? nullptr : first + count,
                               kept(kept_.values, i, at),
                               stacked,
                               streams_ == 1 ? nullptr : stacked + count};
      SVGDX_ISA_CALL(along_layer, args);
    }
  }

  void back(const Rows& at, const PerUnit<C>& arguments, C* one, C* other) const {
    const int64_t last = shape_.layers() - 1;
    for (int64_t i = last; i >= 0; --i) {
      const int64_t width = shape_.widths[i + 1], count = at.rows * width;
      const C* first = arguments.at(shape_, i);
      const bool is_last = i == last, two = streams_ > 1;
      const AlongBack<C> args{at.rows,
                              width,
                              shape_.activation,
                              first,
                              i == 0 || !two ? nullptr : first + count,
                              kept(kept_.values, i, at),
                              is_last ? weights_.head(at.k) : kept(kept_.back, i, at),
                              is_last,
                              is_last ? nullptr : other,
                              is_last || !two ? nullptr : other + count,
                              one,
                              two ? one + count : nullptr};
      SVGDX_ISA_CALL(along_back, args);
      weights_.back(at.k, i, streams_ * at.rows, one, other);
    }
  }

  const MinimumShape& shape_;
  MinimumWeights<C> weights_;
  const C* direction_;
  const MinimumKept& kept_;
  int64_t streams_;
  Tensor first_, second_;
};

}  // namespace svgdx::cpu
