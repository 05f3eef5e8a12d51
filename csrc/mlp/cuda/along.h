// Derivatives in t, at 0, of the gradient of min(f_1, f_2) at x + t v, from what mlp/cuda/minimum.h saved: the first is
// H v, the second the gradient of v . H v in x.
#pragma once

#include "mlp/cuda/minimum.h"

namespace svgdx::cuda {

// Reading a CUDA tensor would wait for the device; any number is a valid choice.
inline void check_order(const char*, const MinimumShape&, const Tensor&) {}

template <class C>
class MlpAlong {
 public:
  MlpAlong(const MinimumShape& shape, const Tensor& direction, const Tensor& parameters, const MinimumKept& kept,
           int64_t orders)
      : shape_(shape),
        weights_(shape, parameters),
        direction_(direction),
        kept_(kept),
        orders_(orders),
        first_(new_empty(direction, {shape.rows, shape.dim}, direction.scalar_type())),
        second_(new_empty(direction, {orders > 1 ? shape.rows : 0, shape.dim}, direction.scalar_type())),
        h_(numbers(shape.units)),
        one_(numbers(shape.widest)),
        other_(numbers(std::max(shape.widest, shape.dim))) {}

  std::tuple<Tensor, Tensor> run() {
    if (shape_.rows == 0) return {first_, second_};
    forward();
    back();
    const TwinChoice<C> args{shape_.rows,     shape_.dim,
                             int(orders_),    data<int32_t>(kept_.order),
                             data<C>(other_), {out<C>(first_), out<C>(second_)}};
    twin_choice<C>(args, stream(direction_));
    return {first_, second_};
  }

 private:
  Tensor numbers(int64_t width) const {
    return new_empty(direction_, {2 * orders_ * shape_.rows * width}, direction_.scalar_type());
  }
  // The derivatives of layer i's argument begin here.
  int64_t offset(int64_t i) const { return 2 * orders_ * shape_.rows * shape_.before[i]; }
  int64_t given(int64_t i) const { return i == 0 ? 1 : orders_; }

  TwinAlong<C> layer(int64_t i) const {
    const int64_t rows = shape_.rows;
    TwinAlong<C> args{};
    args.rows = rows;
    args.width = shape_.widths[i + 1];
    args.orders = int(orders_);
    args.given = int(given(i));
    args.activation = shape_.activation;
    args.value = data<C>(kept_.values) + 2 * rows * shape_.before[i];
    args.h = data<C>(h_) + offset(i);
    args.out = out<C>(one_);
    return args;
  }

  // Computes the derivatives of every layer's argument.
  void forward() {
    Tensor in = for_both(direction_);
    for (int64_t i = 0; i < shape_.layers(); ++i) {
      const int64_t rows = given(i) * shape_.rows, width = shape_.widths[i + 1];
      multiply_batches(in, weights_.transposed[i], for_networks(h_, rows, width, offset(i)));
      if (i + 1 == shape_.layers()) return;
      twin_along<C>(layer(i), stream(direction_));
      in = for_networks(one_, orders_ * shape_.rows, width);
    }
  }

  // Leaves the derivatives of each network's gradient in x in `other_`.
  void back() {
    const int64_t last = shape_.layers() - 1, rows = orders_ * shape_.rows;
    for (int64_t i = last; i >= 0; --i) {
      TwinAlong<C> args = layer(i);
      if (i == last) {
        args.head = weights_.template head<C>();
        args.head_pitch = shape_.pitch;
      } else {
        args.back = data<C>(kept_.back) + 2 * shape_.rows * shape_.before[i];
        args.grad = data<C>(other_);
      }
      twin_along_back<C>(args, stream(direction_));
      multiply_batches(for_networks(one_, rows, args.width), weights_.weight[i],
                       for_networks(other_, rows, shape_.widths[i]));
    }
  }

  const MinimumShape& shape_;
  TwinWeights weights_;
  const Tensor& direction_;
  const MinimumKept& kept_;
  int64_t orders_;
  Tensor first_, second_;
  Tensor h_, one_, other_;
};

}  // namespace svgdx::cuda
