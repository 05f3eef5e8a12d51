// Host layer of a multilayer perceptron's value, gradient and second derivatives. Rows are processed in blocks whose
// size depends on the shape only; on the CPU one thread takes a block through all sweeps, so that intermediate results
// stay in that core's cache.
#pragma once

#include <algorithm>
#include <tuple>
#include <vector>

#include "common/products.h"
#include "common/storage.h"
#include "trace/mlp.h"

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
  // The columns of the first layer's weight for x.
  Tensor first() const { return columns(weight[0], 0, dim); }

  // The condition's part of the first layer, computed once for each row of B.
  OptionalTensor condition_part() const {
    if (!condition) return std::nullopt;
    const Tensor of_condition = columns(weight[0], dim, widths[0] - dim);
    const Tensor all = torch::stable::reshape(*condition, {1, batch, widths[0] - dim});
    const Tensor columns = torch::stable::reshape(dense(of_condition), {1, widths[1], widths[0] - dim});
    return torch::stable::reshape(product_with_transposed(all, columns), {batch, widths[1]});
  }

  template <class C>
  LayerShift<C> shift(int64_t layer, const OptionalTensor& part, int64_t first_row) const {
    return {data<C>(flat) + bias[layer], layer == 0 ? data<C>(part) : nullptr, first_row, group};
  }
  // The last layer's weight precedes its bias, which is the last parameter.
  template <class C>
  MlpHead<C> head(const Tensor& value, int64_t first_row) const {
    const C* last = data<C>(flat) + bias.back();
    return {last - widths[widths.size() - 2], last, out<C>(value) + first_row};
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

inline Tensor some_rows(Tensor t, int64_t first, int64_t rows) { return torch::stable::narrow(t, 0, first, rows); }

inline void multiply(const Tensor& a, const Tensor& b, const Tensor& out) { aten("mm", "out", a, b, out); }

inline void multiply_transposed(const Tensor& a, const Tensor& b, const Tensor& out) {
  multiply(a, torch::stable::transpose(b, 0, 1), out);
}

template <class Backend, class C>
class MlpScoreHvp {
 public:
  MlpScoreHvp(const MlpTensors& t, const Tensor& probe)
      : t_(t),
        probe_(probe),
        first_(t.first()),
        part_(t.condition_part()),
        value_(t.scratch(t.rows())),
        score_(t.scratch(t.rows(), t.dim)),
        hvp_(t.scratch(t.rows(), t.dim)),
        block_(Backend::mlp_rows(t.rows(), t.widest())) {
    for (int64_t layer = 0; layer < t.hidden_layers(); ++layer) {
      Tensor weight = layer == 0 ? first_ : t.weight[layer];
      transposed_.push_back(torch::stable::transpose(weight, 0, 1));
    }
  }

  std::tuple<Tensor, Tensor, Tensor> run() {
    const int64_t count = (t_.rows() + block_ - 1) / block_, most = std::min(block_, t_.rows());
    Backend::for_blocks(count, [&](int64_t begin, int64_t end) {
      const Tensor stacked = t_.scratch(2 * most * t_.widest()), product = t_.scratch(2 * most * t_.widest());
      std::vector<Layer> layers = views(stacked, product, most);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i * block_, rows = std::min(block_, t_.rows() - first);
        if (rows < most) layers = views(stacked, product, rows);
        block(first, rows, layers);
      }
    });
    return {value_, score_, hvp_};
  }

 private:
  // The part of a thread's memory that one hidden layer uses: the result of a product and the input of the next, each
  // for value and tangent (2 rows, width), and what the reverse sweep needs. Created once for all blocks: views cost
  // time.
  struct Layer {
    int64_t width;
    Tensor product, stacked, slope, bend;
  };

  std::vector<Layer> views(const Tensor& stacked, const Tensor& product, int64_t rows) const {
    std::vector<Layer> layers;
    for (int64_t i = 0; i < t_.hidden_layers(); ++i) {
      const int64_t width = t_.widths[i + 1], kept = i + 1 < t_.hidden_layers() ? rows : 0;
      const bool same = i > 0 && layers.back().width == width;
      layers.push_back({width, same ? layers.back().product : matrix(product, 0, 2 * rows, width),
                        same ? layers.back().stacked : matrix(stacked, 0, 2 * rows, width), t_.scratch(kept * width),
                        t_.scratch(kept * width)});
    }
    return layers;
  }

  void block(int64_t first, int64_t rows, const std::vector<Layer>& layers) const {
    void* stream = Backend::stream(t_.x);
    const size_t last = layers.size() - 1;
    multiply(some_rows(t_.x, first, rows), transposed_[0], some_rows(layers[0].product, 0, rows));
    multiply(some_rows(probe_, first, rows), transposed_[0], some_rows(layers[0].product, rows, rows));
    for (size_t i = 0; i <= last; ++i) {
      const Layer& layer = layers[i];
      if (i > 0) multiply(layers[i - 1].stacked, transposed_[i], layer.product);
      const bool kept = i < last;
      const MlpForward<C> args{rows,
                               layer.width,
                               t_.activation,
                               data<C>(layer.product),
                               t_.template shift<C>(int64_t(i), part_, first),
                               out<C>(layer.stacked),
                               kept ? out<C>(layer.slope) : nullptr,
                               kept ? out<C>(layer.bend) : nullptr,
                               kept ? MlpHead<C>{} : t_.template head<C>(value_, first)};
      Backend::template mlp_forward<C>(args, stream);
    }
    for (size_t i = last; i > 0; --i) {
      const Layer& below = layers[i - 1];
      multiply(layers[i].stacked, t_.weight[i], below.product);
      const MlpReverse<C> args{
          rows, below.width, data<C>(below.product), data<C>(below.slope), data<C>(below.bend), out<C>(below.stacked)};
      Backend::template mlp_reverse<C>(args, stream);
    }
    multiply(some_rows(layers[0].stacked, 0, rows), first_, some_rows(score_, first, rows));
    multiply(some_rows(layers[0].stacked, rows, rows), first_, some_rows(hvp_, first, rows));
  }

  const MlpTensors& t_;
  Tensor probe_, first_;
  OptionalTensor part_;
  std::vector<Tensor> transposed_;  // weights of the hidden layers
  Tensor value_, score_, hvp_;
  int64_t block_;
};

template <class Backend, class C>
class MlpLaplacians {
 public:
  explicit MlpLaplacians(const MlpTensors& t)
      : t_(t),
        part_(t.condition_part()),
        first_jacobian_(dense(torch::stable::transpose(t.first(), 0, 1))),
        value_(t.scratch(t.rows())),
        score_(t.scratch(t.rows(), t.dim)),
        trace_(t.scratch(t.rows())),
        block_(std::max<int64_t>(1, Backend::mlp_rows(t.rows() * (t.dim + 2), t.widest()) * 2 / (t.dim + 2))) {}

  std::tuple<Tensor, Tensor, Tensor> run() {
    const int64_t count = (t_.rows() + block_ - 1) / block_;
    Backend::for_blocks(count, [&](int64_t begin, int64_t end) {
      const int64_t most = std::min(block_, t_.rows()) * (t_.dim + 2);
      const Tensor stacked = t_.scratch(most * t_.widest()), product = t_.scratch(most * t_.widest());
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i * block_;
        block(first, std::min(block_, t_.rows() - first), stacked, product);
      }
    });
    return {value_, score_, trace_};
  }

 private:
  void block(int64_t first, int64_t rows, const Tensor& stacked_memory, const Tensor& product_memory) const {
    const int64_t last = t_.hidden_layers() - 1;
    Tensor inputs = some_rows(t_.x, first, rows);
    for (int64_t layer = 0; layer <= last; ++layer) {
      const int64_t width = t_.widths[layer + 1], all = rows * (t_.dim + 2);
      const Tensor product = matrix(product_memory, 0, layer == 0 ? rows : all, width);
      multiply_transposed(inputs, layer == 0 ? t_.first() : t_.weight[layer], product);
      inputs = matrix(stacked_memory, 0, all, width);
      const C* made = data<C>(product);
      MlpLaplacian<C> args{rows,
                           t_.dim,
                           width,
                           t_.activation,
                           made,
                           t_.template shift<C>(layer, part_, first),
                           layer == 0 ? nullptr : made + rows * width,
                           layer == 0 ? data<C>(first_jacobian_) : made + 2 * rows * width,
                           layer == 0 ? 0 : t_.dim * width,
                           out<C>(inputs),
                           {},
                           nullptr,
                           nullptr};
      if (layer == last) {
        args.head = t_.template head<C>(value_, first);
        args.score = out<C>(score_) + first * t_.dim;
        args.trace = out<C>(trace_) + first;
      }
      Backend::template mlp_laplacian<C>(args, Backend::stream(t_.x));
    }
  }

  const MlpTensors& t_;
  OptionalTensor part_;
  Tensor first_jacobian_, value_, score_, trace_;
  int64_t block_;
};

template <class Backend>
struct MlpJetOps {
  using Guard = typename Backend::Guard;
  using Three = std::tuple<Tensor, Tensor, Tensor>;

  static Three score_hvp(const Tensor& x, const OptionalTensor& condition, const Tensor& probe,
                         const Tensor& parameters, const Tensor& widths, int64_t activation) {
    const Guard guard(x);
    const char* op = "mlp_score_hvp";
    const MlpTensors t(op, x, condition, parameters, widths, activation);
    check_shape(op, "probe", probe, t.shape, "the shape of x");
    const Tensor rows = torch::stable::reshape(t.prepared("probe", probe), {t.rows(), t.dim});
    return with_compute(t, [&](auto number) { return MlpScoreHvp<Backend, decltype(number)>(t, rows).run(); }, t.shape);
  }

  static Three laplacian(const Tensor& x, const OptionalTensor& condition, const Tensor& parameters,
                         const Tensor& widths, int64_t activation) {
    const Guard guard(x);
    const char* op = "mlp_laplacian";
    const MlpTensors t(op, x, condition, parameters, widths, activation);
    SVGDX_CHECK(t.dim <= kMaxLaplacianDim, op, "x must have at most ", kMaxLaplacianDim, " features (D), but has ",
                t.dim);
    return with_compute(t, [&](auto number) { return MlpLaplacians<Backend, decltype(number)>(t).run(); }, t.lead);
  }

  // Calls f with float or double and converts its results to their dtype and shape; the last has shape `sizes`.
  template <class F>
  static Three with_compute(const MlpTensors& t, F f, const Sizes& sizes) {
    const Tensor none = new_empty(t.x, {0}, t.type);
    Three made{none, none, none};
    if (t.rows() == 0 || t.dim == 0) {
      SVGDX_CHECK(t.dim > 0, t.op, "x must have at least 1 feature (D)");
      made = {none, none, none};
    } else {
      made = t.type == ScalarType::Double ? f(double{}) : f(float{});
    }
    return {t.finished(std::get<0>(made), t.lead), t.finished(std::get<1>(made), t.shape),
            t.finished(std::get<2>(made), sizes)};
  }
};

}  // namespace svgdx
