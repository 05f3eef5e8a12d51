// The checked arguments of the derivatives of a multilayer perceptron, and views of its layers.
#pragma once

#include <algorithm>
#include <tuple>
#include <vector>

#include "common/products.h"
#include "common/storage.h"
#include "mlp/args.h"

namespace svgdx {

// A view of rows * cols entries of a flat tensor, starting at `first`, as a matrix.
inline Tensor matrix(Tensor flat, int64_t first, int64_t rows, int64_t cols) {
  return torch::stable::reshape(torch::stable::narrow(flat, 0, first, rows * cols), {rows, cols});
}

// The checked arguments of one call in the compute type, and the layers as views of the flat parameters.
struct MlpTensors {
  const char* op;
  Sizes shape, lead;            // of x; its leading shape with M
  int64_t batch, group, dim;    // B, M, D
  Tensor x;                     // (B M, D)
  OptionalTensor condition;     // (B, C)
  std::vector<int64_t> widths;  // D + C, hidden widths, 1
  Tensor flat;                  // concatenated weights and biases, layer by layer
  std::vector<int64_t> bias;    // offset of each
  std::vector<Tensor> weight;   // of the hidden layers
  Activation activation;
  ScalarType storage, type;

  MlpTensors(const char* op, const Tensor& x_in, const OptionalTensor& condition_in, const Tensor& parameters,
             const Tensor& widths_in, int64_t code)
      : op(op),
        shape(sizes_of(x_in)),
        x(x_in),
        flat(parameters),
        storage(x_in.scalar_type()),
        type(compute_type(storage)) {
    check_floating(op, "x", x_in);
    SVGDX_CHECK(shape.size() >= 2, op, "x must have shape (..., M, D), but has ", text(shape));
    SVGDX_CHECK(code >= 0 && code < kActivations, op, "activation must be in [0, ", kActivations, "), but is ", code);
    activation = Activation(code);
    lead = Sizes(shape.begin(), shape.end() - 1);
    const Sizes outer(shape.begin(), shape.end() - 2);
    batch = product_of(outer);
    group = shape[shape.size() - 2];
    dim = shape.back();
    x = torch::stable::reshape(prepared("x", x_in), {batch * group, dim});
    int64_t features = 0;
    if (condition_in) {
      const Sizes sizes = sizes_of(*condition_in);
      SVGDX_CHECK(sizes.size() == outer.size() + 1 && std::equal(outer.begin(), outer.end(), sizes.begin()), op,
                  "condition must have shape (..., C) with the leading shape of x, ", text(outer), ", but has ",
                  text(sizes));
      features = sizes.back();
      condition = torch::stable::reshape(prepared("condition", *condition_in), {batch, features});
      if (features == 0) condition = std::nullopt;
    }
    flat = prepared("parameters", parameters);
    cut(widths_in, features);
  }

  // Detached: autograd is disabled on the calling thread, but not on the pool's threads.
  Tensor prepared(const char* name, const Tensor& t) const {
    check_dtype(op, name, t, storage);
    SVGDX_CHECK(t.is_cuda() == x.is_cuda() && t.get_device_index() == x.get_device_index(), op, name,
                " must be on the device of x, but is on another");
    return aten("detach", "", as_dense(t, type));
  }

  int64_t rows() const { return batch * group; }
  int64_t hidden_layers() const { return int64_t(widths.size()) - 2; }
  int64_t widest() const { return *std::max_element(widths.begin() + 1, widths.end()); }
  // The columns of the first layer's weight for x, and those for the condition.
  Tensor first() const { return columns(weight[0], 0, dim); }
  Tensor of_condition() const { return columns(weight[0], dim, widths[0] - dim); }

  // The condition's part of the first layer, computed once for each row of B.
  OptionalTensor condition_part() const {
    if (!condition) return std::nullopt;
    const Tensor all = torch::stable::reshape(*condition, {1, batch, widths[0] - dim});
    const Tensor columns = torch::stable::reshape(dense(of_condition()), {1, widths[1], widths[0] - dim});
    return torch::stable::reshape(product_with_transposed(all, columns), {batch, widths[1]});
  }

  template <class C>
  LayerShift<C> shift(int64_t layer, const OptionalTensor& part, int64_t first_row) const {
    return {data<C>(flat) + bias[layer], layer == 0 ? data<C>(part) : nullptr, first_row, group};
  }
  // The last layer's weight precedes its bias, which is the last parameter.
  template <class C>
  MlpHead<C> head(const Tensor& value, int64_t first_row) const {
    return {head_weight<C>(), data<C>(flat) + bias.back(), out<C>(value) + first_row};
  }
  template <class C>
  const C* head_weight() const {
    return data<C>(flat) + bias.back() - widths[widths.size() - 2];
  }

  Tensor scratch(int64_t rows, int64_t cols) const { return new_empty(x, {rows, cols}, type); }
  Tensor scratch(int64_t count) const { return new_empty(x, {count}, type); }
  Tensor finished(const Tensor& t, const Sizes& sizes) const {
    return torch::stable::reshape(as_type(t, storage), sizes);
  }

 private:
  static Tensor columns(Tensor t, int64_t first, int64_t count) { return torch::stable::narrow(t, 1, first, count); }

  void cut(const Tensor& widths_in, int64_t features) {
    SVGDX_CHECK(widths_in.is_cpu() && widths_in.scalar_type() == ScalarType::Long && widths_in.dim() == 1 &&
                    widths_in.is_contiguous() && widths_in.size(0) >= 3,
                op, "widths must be a CPU tensor of at least 3 int64 numbers");
    widths.assign(data<int64_t>(widths_in), data<int64_t>(widths_in) + widths_in.size(0));
    SVGDX_CHECK(*std::min_element(widths.begin() + 1, widths.end()) >= 1 && widths.back() == 1, op,
                "widths must be positive and end with 1, but are ", text(widths));
    SVGDX_CHECK(widths[0] == dim + features, op, "weights must take D + C = ", dim + features,
                " features in the first layer, but take ", widths[0]);
    int64_t wanted = 0;
    for (size_t i = 0; i + 1 < widths.size(); ++i) wanted += widths[i + 1] * (widths[i] + 1);
    SVGDX_CHECK(flat.dim() == 1 && flat.numel() == wanted, op, "parameters must have shape (", wanted, ",), but has ",
                text(sizes_of(flat)));
    int64_t at = 0;
    for (size_t i = 0; i + 1 < widths.size(); ++i) {
      const int64_t count = widths[i + 1] * widths[i];
      bias.push_back(at + count);
      if (i + 2 < widths.size()) weight.push_back(matrix(flat, at, widths[i + 1], widths[i]));
      at += count + widths[i + 1];
    }
  }
};

// Value, gradient in x and a second derivative, or the gradients of three arguments.
using MlpResults = std::tuple<Tensor, Tensor, Tensor>;

// Calls f with float or double and converts its results to their dtype and shape; the last has shape `sizes`.
template <class F>
MlpResults with_compute(const MlpTensors& t, F f, const Sizes& sizes) {
  const Tensor none = new_empty(t.x, {0}, t.type);
  MlpResults results{none, none, none};
  SVGDX_CHECK(t.dim > 0, t.op, "x must have at least 1 feature (D)");
  if (t.rows() > 0) results = t.type == ScalarType::Double ? f(double{}) : f(float{});
  return {t.finished(std::get<0>(results), t.lead), t.finished(std::get<1>(results), t.shape),
          t.finished(std::get<2>(results), sizes)};
}

inline Tensor some_rows(Tensor t, int64_t first, int64_t rows) { return torch::stable::narrow(t, 0, first, rows); }

}  // namespace svgdx
