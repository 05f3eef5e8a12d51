// The sweeps through min(f_1, f_2) on CUDA: both networks at once, with batched products of torch's. What they save:
//   order (rows): 0 where the first network is the smaller, ~0 elsewhere,
//   values (2 rows, units) and back (2 rows, inner), layer by layer, each (2, rows, width) with the networks in order.
#pragma once

#include "mlp/cuda/twin.h"
#include "mlp/minimum.h"

namespace svgdx::cuda {

constexpr int64_t kNetworksSaved = 2;

// The weights of both networks as batches of two matrices.
struct TwinWeights {
  const MinimumShape& shape;
  const Tensor& parameters;                // (2, P)
  std::vector<Tensor> weight, transposed;  // of each hidden layer, (2, outputs, inputs) and (2, inputs, outputs)

  TwinWeights(const MinimumShape& shape, const Tensor& parameters) : shape(shape), parameters(parameters) {
    for (int64_t i = 0; i < shape.layers(); ++i) {
      const int64_t in = shape.widths[i], width = shape.widths[i + 1];
      Tensor all = parameters;
      const Tensor flat = torch::stable::narrow(all, 1, shape.weight[i], in * width);
      const Tensor stored = torch::stable::view(flat, {2, i == 0 ? in : width, i == 0 ? width : in});
      Tensor same = stored;
      const Tensor turned = torch::stable::transpose(same, 1, 2);
      weight.push_back(i == 0 ? turned : stored);
      transposed.push_back(i == 0 ? stored : turned);
    }
  }
  template <class C>
  const C* bias(int64_t layer) const {
    return data<C>(parameters) + shape.bias[layer];
  }
  template <class C>
  const C* head() const {
    return data<C>(parameters) + shape.weight[shape.layers()];
  }
};

inline void multiply_batches(const Tensor& a, const Tensor& b, const Tensor& out) { aten("bmm", "out", a, b, out); }

// x (rows, D) for both networks, (2, rows, D), without a copy.
inline Tensor for_both(const Tensor& x) {
  return aten("expand", "", x, torch::headeronly::IntHeaderOnlyArrayRef({2, x.size(0), x.size(1)}), false);
}

// The first rows * cols numbers of flat memory for each network, (2, rows, cols).
inline Tensor for_networks(const Tensor& memory, int64_t rows, int64_t cols, int64_t first = 0) {
  Tensor flat = memory;
  return torch::stable::view(torch::stable::narrow(flat, 0, first, 2 * rows * cols), {2, rows, cols});
}

// Both networks at all rows, with the gradient in x and derivatives of that gradient along a direction, in one sweep up
// and one down.
template <class C>
class TwinSweep {
 public:
  // depth: 0 computes the values, 1 also the gradients, 2 also saves what derivatives of the gradient need.
  // orders: derivatives in t of the gradient at x + t v, for which x has N more rows, v; depth is then not 0.
  TwinSweep(const MinimumShape& shape, const Tensor& x, const Tensor& shift, const Tensor& parameters, int64_t depth,
            int64_t orders)
      : shape_(shape),
        weights_(shape, parameters),
        x_(x),
        shift_(shift),
        depth_(depth),
        orders_(orders),
        saved_values_(saved(shape.units)),
        saved_back_(saved(shape.inner)),
        values_(depth > 1 && orders == 0 ? flat(saved_values_) : numbers(shape.units)),
        products_(numbers(orders > 0 ? shape.units : 0)),
        one_(numbers(shape.widest)),
        other_(numbers(std::max(shape.widest, shape.dim))),
        output_(new_empty(x, {2 * shape.rows}, x.scalar_type())) {}

  void run() {
    if (shape_.rows == 0) return;
    forward();
    if (depth_ > 0) back();
  }
  const C* output() const { return data<C>(output_); }          // (2 N)
  const C* gradients() const { return data<C>(other_); }        // (2, 1 + orders, N, D)
  const Tensor& saved_values() const { return saved_values_; }  // values and back of MinimumKept
  const Tensor& saved_back() const { return saved_back_; }

 private:
  static Tensor flat(const Tensor& t) { return torch::stable::reshape(t, {t.numel()}); }
  Tensor numbers(int64_t width) const {
    return new_empty(x_, {2 * (1 + orders_) * shape_.rows * width}, x_.scalar_type());
  }
  Tensor saved(int64_t units) const {
    return new_empty(x_, {depth_ > 1 ? 2 * shape_.rows : 0, units}, x_.scalar_type());
  }
  int64_t given(int64_t layer) const { return layer == 0 ? std::min<int64_t>(1, orders_) : orders_; }
  // Where a layer begins in what is saved, and in an array with derivatives.
  int64_t saved_offset(int64_t layer) const { return 2 * shape_.rows * shape_.before[layer]; }
  int64_t offset(int64_t layer) const { return (1 + orders_) * saved_offset(layer); }
  // The product of a layer, which the way down reads only for its derivatives.
  Tensor product(int64_t layer) const {
    const int64_t rows = (1 + given(layer)) * shape_.rows, width = shape_.widths[layer + 1];
    return orders_ > 0 ? for_networks(products_, rows, width, offset(layer)) : for_networks(other_, rows, width);
  }

  // Leaves the gradient in z of the last layer in `one_`, if there is one.
  void forward() {
    const int64_t rows = shape_.rows, last = shape_.layers() - 1;
    Tensor in = for_both(x_);
    for (int64_t i = 0; i <= last; ++i) {
      const int64_t width = shape_.widths[i + 1];
      const bool from_state = i == 0, is_last = i == last;
      const Tensor argument = product(i), values = for_networks(values_, (1 + orders_) * rows, width, offset(i));
      multiply_batches(in, weights_.transposed[i], argument);
      TwinLayer<C> args{};
      args.rows = rows;
      args.width = width;
      args.orders = int(orders_);
      args.given = int(given(i));
      args.activation = shape_.activation;
      args.product = data<C>(argument);
      args.shift = from_state ? data<C>(shift_) : weights_.template bias<C>(i);
      args.group = from_state ? shape_.group : rows;
      args.pitch = from_state ? width : shape_.pitch;
      args.value = is_last ? nullptr : out<C>(values);
      // Without derivatives, `values` is what is saved.
      const bool saves = depth_ > 1 && (is_last || orders_ > 0);
      args.saved = saves ? out<C>(saved_values_) + saved_offset(i) : nullptr;
      if (is_last) {
        args.head = weights_.template head<C>();
        args.head_pitch = shape_.pitch;
        args.output = out<C>(output_);
        args.grad = depth_ > 0 ? out<C>(one_) : nullptr;
      }
      twin_layer<C>(args, stream(x_));
      in = values;
    }
  }

  // Leaves the gradient in x of each network in `other_`.
  void back() {
    const int64_t rows = (1 + orders_) * shape_.rows;
    for (int64_t i = shape_.layers() - 1; i >= 0; --i) {
      const int64_t below = shape_.widths[i];
      const bool in_place = i > 0 && depth_ > 1 && orders_ == 0;
      const Tensor to = in_place ? for_networks(flat(saved_back_), rows, below, saved_offset(i - 1))
                                 : for_networks(other_, rows, below);
      multiply_batches(for_networks(one_, rows, shape_.widths[i + 1]), weights_.weight[i], to);
      if (i == 0) return;
      TwinBack<C> args{};
      args.rows = shape_.rows;
      args.width = below;
      args.orders = int(orders_);
      args.given = int(given(i - 1));
      args.activation = shape_.activation;
      args.value = data<C>(values_) + offset(i - 1);
      args.product = orders_ > 0 ? data<C>(products_) + offset(i - 1) : nullptr;
      args.grad = data<C>(to);
      args.out = out<C>(one_);
      args.saved = depth_ > 1 && orders_ > 0 ? out<C>(saved_back_) + saved_offset(i - 1) : nullptr;
      twin_back<C>(args, stream(x_));
    }
  }

  const MinimumShape& shape_;
  TwinWeights weights_;
  const Tensor &x_, &shift_;
  int64_t depth_, orders_;
  Tensor saved_values_, saved_back_;
  Tensor values_, products_, one_, other_, output_;
};

template <class C>
class MlpMinimum {
 public:
  MlpMinimum(const MinimumShape& shape, const Tensor& x, const Tensor& shift, const Tensor& parameters, int64_t depth)
      : shape_(shape),
        x_(x),
        depth_(depth),
        sweep_(shape, x, shift, parameters, depth, 0),
        value_(new_empty(x, {shape.rows}, x.scalar_type())),
        score_(new_empty(x, {depth > 0 ? shape.rows : 0, shape.dim}, x.scalar_type())),
        kept_{new_empty(x, {depth > 1 ? shape.rows : 0}, ScalarType::Int), sweep_.saved_values(), sweep_.saved_back()} {
  }

  void run() {
    if (shape_.rows == 0) return;
    sweep_.run();
    const TwinMinimum<C> args{shape_.rows,
                              shape_.dim,
                              sweep_.output(),
                              depth_ > 0 ? sweep_.gradients() : nullptr,
                              out<C>(value_),
                              depth_ > 0 ? out<C>(score_) : nullptr,
                              depth_ > 1 ? out<int32_t>(kept_.order) : nullptr};
    twin_minimum<C>(args, stream(x_));
  }
  const Tensor& value() const { return value_; }
  const Tensor& score() const { return score_; }
  const MinimumKept& kept() const { return kept_; }

 private:
  const MinimumShape& shape_;
  const Tensor& x_;
  int64_t depth_;
  TwinSweep<C> sweep_;
  Tensor value_, score_;
  MinimumKept kept_;
};

}  // namespace svgdx::cuda
