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

template <class C>
class MlpMinimum {
 public:
  // depth: 0 computes the value, 1 also its gradient, 2 also saves what derivatives of the gradient need.
  MlpMinimum(const MinimumShape& shape, const Tensor& x, const Tensor& shift, const Tensor& parameters, int64_t depth)
      : shape_(shape),
        weights_(shape, parameters),
        x_(x),
        shift_(shift),
        depth_(depth),
        value_(new_empty(x, {shape.rows}, x.scalar_type())),
        score_(new_empty(x, {depth > 0 ? shape.rows : 0, shape.dim}, x.scalar_type())),
        kept_{new_empty(x, {depth > 1 ? shape.rows : 0}, ScalarType::Int), saved(shape.units), saved(shape.inner)},
        values_(depth > 1 ? kept_.values : numbers(2 * shape.rows * shape.units)),
        one_(numbers(2 * shape.rows * shape.widest)),
        other_(numbers(2 * shape.rows * std::max(shape.widest, shape.dim))),
        output_(numbers(2 * shape.rows)) {}

  void run() {
    if (shape_.rows == 0) return;
    forward();
    const bool differentiates = depth_ > 0;
    if (differentiates) back();
    const TwinMinimum<C> args{shape_.rows,
                              shape_.dim,
                              data<C>(output_),
                              differentiates ? data<C>(other_) : nullptr,
                              out<C>(value_),
                              differentiates ? out<C>(score_) : nullptr,
                              depth_ > 1 ? out<int32_t>(kept_.order) : nullptr};
    twin_minimum<C>(args, stream(x_));
  }
  const Tensor& value() const { return value_; }
  const Tensor& score() const { return score_; }
  const MinimumKept& kept() const { return kept_; }

 private:
  Tensor numbers(int64_t count) const { return new_empty(x_, {count}, x_.scalar_type()); }
  Tensor saved(int64_t units) const {
    return new_empty(x_, {depth_ > 1 ? 2 * shape_.rows : 0, units}, x_.scalar_type());
  }
  int64_t offset(int64_t layer) const { return 2 * shape_.rows * shape_.before[layer]; }

  // Leaves the gradient in z of the last layer in `one_`, if there is one.
  void forward() {
    const int64_t rows = shape_.rows, last = shape_.layers() - 1;
    const Tensor flat = torch::stable::reshape(values_, {values_.numel()});
    Tensor in = for_both(x_);
    for (int64_t i = 0; i <= last; ++i) {
      const int64_t width = shape_.widths[i + 1];
      const bool from_state = i == 0, is_last = i == last;
      const Tensor product = for_networks(other_, rows, width), values = for_networks(flat, rows, width, offset(i));
      multiply_batches(in, weights_.transposed[i], product);
      const TwinLayer<C> args{rows,
                              width,
                              shape_.activation,
                              data<C>(product),
                              from_state ? data<C>(shift_) : weights_.bias<C>(i),
                              from_state ? shape_.group : rows,
                              from_state ? width : shape_.pitch,
                              is_last && depth_ == 0 ? nullptr : out<C>(values),
                              is_last ? weights_.head<C>() : nullptr,
                              shape_.pitch,
                              out<C>(output_),
                              is_last && depth_ > 0 ? out<C>(one_) : nullptr};
      twin_layer<C>(args, stream(x_));
      in = values;
    }
  }

  // Leaves the gradient in x of each network in `other_`.
  void back() {
    const int64_t rows = shape_.rows;
    const Tensor saved = torch::stable::reshape(kept_.back, {kept_.back.numel()});
    for (int64_t i = shape_.layers() - 1; i >= 0; --i) {
      const int64_t below = shape_.widths[i];
      const bool keep = i > 0 && depth_ > 1;
      const Tensor to = keep ? for_networks(saved, rows, below, offset(i - 1)) : for_networks(other_, rows, below);
      multiply_batches(for_networks(one_, rows, shape_.widths[i + 1]), weights_.weight[i], to);
      if (i == 0) return;
      const TwinBack<C> args{rows,        below,       shape_.activation, data<C>(values_) + offset(i - 1),
                             data<C>(to), out<C>(one_)};
      twin_back<C>(args, stream(x_));
    }
  }

  const MinimumShape& shape_;
  TwinWeights weights_;
  const Tensor &x_, &shift_;
  int64_t depth_;
  Tensor value_, score_;
  MinimumKept kept_;
  Tensor values_, one_, other_, output_;
};

}  // namespace svgdx::cuda
