// Host layer of mlp_laplacian and its gradient, compiled once for each backend. Points are processed in blocks whose
// size depends on the shape only; on the CPU one thread takes a block through all layers.
#include "common/registration.h"
#include "mlp/host.h"
#include SVGDX_BACKEND_HEADER(common, device.h)
#include SVGDX_BACKEND_HEADER(common, factor.h)
#include SVGDX_BACKEND_HEADER(mlp, linear_gradients.h)
#include SVGDX_BACKEND_HEADER(mlp, rows.h)

namespace svgdx::SVGDX_BACKEND {

// The hidden layers' arguments. Above the first layer they have dim + 2 rows for each point: first the values of all
// points, then their Laplacians, then the dim derivatives of each point.
template <class C>
class LaplacianLayers {
 public:
  explicit LaplacianLayers(const MlpTensors& t)
      : t_(t), part_(t.condition_part()), first_jacobian_(dense(torch::stable::transpose(t.first(), 0, 1))) {
    for (int64_t layer = 0; layer < t.hidden_layers(); ++layer) {
      Tensor weight = layer == 0 ? t.first() : t.weight[layer];
      transposed_.emplace_back(torch::stable::transpose(weight, 0, 1), t.rows() * (layer == 0 ? 1 : t.dim + 2));
    }
  }

  int64_t last() const { return t_.hidden_layers() - 1; }
  int64_t per_point() const { return t_.dim + 2; }
  // Numbers of a layer's argument for some points.
  int64_t numbers(int64_t layer, int64_t points) const {
    return points * (layer == 0 ? 1 : per_point()) * t_.widths[layer + 1];
  }

  // Points [first, first + points) of a layer: multiplies the outputs of the layer below by its weights into `memory`.
  LaplacianLayer<C> argument(int64_t layer, int64_t first, int64_t points, const Tensor& below,
                             const Tensor& memory) const {
    const int64_t width = t_.widths[layer + 1];
    const Tensor product = matrix(memory, 0, layer == 0 ? points : points * per_point(), width);
    transposed_[layer].multiply(layer == 0 ? some_rows(t_.x, first, points) : below, product);
    const C* argument = data<C>(product);
    return {points,
            t_.dim,
            width,
            t_.activation,
            argument,
            t_.template shift<C>(layer, part_, first),
            layer == 0 ? nullptr : argument + points * width,
            layer == 0 ? data<C>(first_jacobian_) : argument + 2 * points * width,
            layer == 0 ? 0 : t_.dim * width};
  }

 private:
  const MlpTensors& t_;
  OptionalTensor part_;
  Tensor first_jacobian_;
  std::vector<Factor<C>> transposed_;  // weights of the hidden layers
};

template <class C>
class MlpLaplacians {
 public:
  explicit MlpLaplacians(const MlpTensors& t)
      : t_(t),
        layers_(t),
        value_(t.scratch(t.rows())),
        score_(t.scratch(t.rows(), t.dim)),
        trace_(t.scratch(t.rows())),
        block_(std::max<int64_t>(1, mlp_rows(t.rows() * (t.dim + 2), t.widest()) * 2 / (t.dim + 2))) {}

  MlpResults run() {
    const int64_t count = (t_.rows() + block_ - 1) / block_;
    for_blocks(count, [&](int64_t begin, int64_t end) {
      const int64_t most = std::min(block_, t_.rows()) * layers_.per_point();
      const Tensor stacked = t_.scratch(most * t_.widest()), product = t_.scratch(most * t_.widest());
      for (int64_t i = begin; i < end; ++i) {
        const int64_t first = i * block_;
        block(first, std::min(block_, t_.rows() - first), stacked, product);
      }
    });
    return {value_, score_, trace_};
  }

 private:
  void block(int64_t first, int64_t points, const Tensor& stacked_memory, const Tensor& product_memory) const {
    Tensor stacked;
    for (int64_t i = 0; i <= layers_.last(); ++i) {
      const LaplacianLayer<C> layer = layers_.argument(i, first, points, stacked, product_memory);
      stacked = matrix(stacked_memory, 0, points * layers_.per_point(), layer.width);
      MlpLaplacian<C> args{layer, out<C>(stacked), {}, nullptr, nullptr};
      if (i == layers_.last()) {
        args.head = t_.template head<C>(value_, first);
        args.score = out<C>(score_) + first * t_.dim;
        args.trace = out<C>(trace_) + first;
      }
      mlp_laplacian<C>(args, stream(t_.x));
    }
  }

  const MlpTensors& t_;
  LaplacianLayers<C> layers_;
  Tensor value_, score_, trace_;
  int64_t block_;
};

// Gradients in the network's value (N), trace (N) and score (N, D).
struct LaplacianUpstream {
  Tensor value, trace, score;
};

// The gradients in x, the condition and the parameters. A block repeats the forward pass, keeps all its layers, and
// goes back through them.
template <class C>
class MlpLaplacianGradients {
 public:
  MlpLaplacianGradients(const MlpTensors& t, const LaplacianUpstream& upstream, bool needs_parameters)
      : t_(t),
        upstream_(upstream),
        needs_parameters_(needs_parameters),
        layers_(t),
        of_first_(t.bias[0] + t.widths[1]),
        deeper_(t.flat.numel() - of_first_),
        points_(laplacian_points(t.rows(), t.dim + 2, t.widest())),
        blocks_((t.rows() + points_ - 1) / points_),
        first_(t.scratch(t.rows(), t.widths[1])),
        sums_(t.x, blocks_, deeper_ + t.dim * t.widths[1]) {
    for (const Tensor& weight : t.weight) weight_.emplace_back(weight, t.rows() * layers_.per_point());
  }

  MlpResults run() {
    const int64_t groups = sums_.groups();
    for_blocks(groups, [&](int64_t begin, int64_t end) {
      const Memory memory(*this);
      for (int64_t g = begin; g < end; ++g) {
        for (int64_t i = blocks_ * g / groups; i < blocks_ * (g + 1) / groups; ++i) {
          const int64_t first = i * points_;
          block(g, first, std::min(points_, t_.rows() - first), memory);
        }
      }
    });
    const int64_t width = t_.widths[1];
    const Tensor all = torch::stable::reshape(first_, {1, t_.rows(), width});
    const Tensor grad_x = product(all, torch::stable::reshape(dense(t_.first()), {1, width, t_.dim}));
    Tensor none = new_empty(t_.x, {0}, t_.type), grad_condition = none;
    OptionalTensor of_rows;
    if (t_.condition) {
      const Tensor grouped = torch::stable::reshape(first_, {t_.batch, t_.group, width});
      of_rows = torch::stable::reshape(product(ones(t_.batch, t_.group), grouped), {1, t_.batch, width});
      grad_condition = product(*of_rows, torch::stable::reshape(dense(t_.of_condition()), {1, width, features()}));
    }
    return {grad_x, grad_condition, needs_parameters_ ? parameters(all, of_rows) : none};
  }

 private:
  // What one thread uses: of every layer, the argument and the outputs; gradients of two neighbouring layers.
  struct Memory {
    std::vector<Tensor> product, stacked;
    Tensor grads[2], upstream, scratch;

    explicit Memory(const MlpLaplacianGradients& of) {
      const MlpTensors& t = of.t_;
      const int64_t points = std::min(of.points_, t.rows()), rows = points * of.layers_.per_point();
      for (int64_t i = 0; i <= of.layers_.last(); ++i) {
        product.push_back(t.scratch(of.layers_.numbers(i, points)));
        stacked.push_back(t.scratch(rows * t.widths[i + 1]));
      }
      for (Tensor& each : grads) each = t.scratch(rows * t.widest());
      upstream = t.scratch(rows);
      scratch = LinearGradients<C>::scratch(t.x, rows, t.widest(), t.widest());
    }
  };

  int64_t features() const { return t_.widths[0] - t_.dim; }

  Tensor ones(int64_t batch, int64_t count) const {
    return torch::stable::full({batch, 1, count}, 1.0, t_.type, std::nullopt, t_.x.device());
  }

  void block(int64_t g, int64_t first, int64_t points, const Memory& memory) const {
    const int64_t rows = points * layers_.per_point(), last = layers_.last();
    std::vector<LaplacianLayer<C>> layer;
    std::vector<Tensor> stacked;
    for (int64_t i = 0; i <= last; ++i) {
      layer.push_back(layers_.argument(i, first, points, i == 0 ? t_.x : stacked[i - 1], memory.product[i]));
      stacked.push_back(matrix(memory.stacked[i], 0, rows, layer[i].width));
      mlp_laplacian<C>({layer[i], out<C>(stacked[i]), {}, nullptr, nullptr}, stream(t_.x));
    }
    const Tensor upstream = gathered(first, points, memory.upstream);
    int64_t end = deeper_;
    if (needs_parameters_) end = sums_.add(g, end, upstream, stacked[last], points, memory.scratch);
    const C* head = t_.template head_weight<C>();
    Tensor grads = matrix(memory.grads[last % 2], 0, rows, layer[last].width);
    for (int64_t i = last;; --i) {
      const bool is_last = i == last;
      mlp_laplacian_reverse<C>(
          {layer[i], is_last ? head : nullptr, is_last ? data<C>(upstream) : nullptr, out<C>(grads)}, stream(t_.x));
      if (i == 0) break;
      if (needs_parameters_) end = sums_.add(g, end, grads, stacked[i - 1], points, memory.scratch);
      const Tensor below = matrix(memory.grads[(i - 1) % 2], 0, rows, layer[i - 1].width);
      weight_[i].multiply(grads, below);
      grads = below;
    }
    Tensor place = some_rows(first_, first, points);
    torch::stable::copy_(place, some_rows(grads, 0, points));
    if (!needs_parameters_) return;
    const int64_t of_point = t_.dim * layer[0].width;
    const Tensor slopes = torch::stable::reshape(some_rows(grads, 2 * points, points * t_.dim), {points, of_point});
    sums_.add_rows(g, deeper_, slopes, memory.scratch);
  }

  // The upstream gradients of a block, (rows, 1), in the order of a layer's rows.
  Tensor gathered(int64_t first, int64_t points, const Tensor& memory) const {
    const Tensor rows = some_rows(memory, 0, points * layers_.per_point());
    const auto copy = [&](const Tensor& from, int64_t begin, int64_t count, int64_t to) {
      Tensor place = some_rows(rows, to, count);
      torch::stable::copy_(place, some_rows(from, begin, count));
    };
    copy(upstream_.value, first, points, 0);
    copy(upstream_.trace, first, points, points);
    copy(upstream_.score, first * t_.dim, points * t_.dim, 2 * points);
    return torch::stable::reshape(rows, {points * layers_.per_point(), 1});
  }

  // All parameters: the first layer's weight, its columns for x and for the condition, and bias; then the sums of the
  // others over the blocks.
  Tensor parameters(const Tensor& all, const OptionalTensor& of_rows) const {
    const int64_t width = t_.widths[1], dim = t_.dim;
    const Tensor sums = sums_.total(), flat = t_.scratch(of_first_ + deeper_);
    Tensor weight = matrix(flat, 0, width, t_.widths[0]);
    const auto write = [](Tensor to, const Tensor& from) { torch::stable::copy_(to, from); };
    const Tensor of_x = product(torch::stable::transpose(all, 1, 2), torch::stable::reshape(t_.x, {1, t_.rows(), dim}));
    Tensor slopes = matrix(sums, deeper_, dim, width);
    write(torch::stable::narrow(weight, 1, 0, dim),
          torch::stable::subtract(torch::stable::reshape(of_x, {width, dim}), torch::stable::transpose(slopes, 0, 1),
                                  -1.0));
    if (of_rows) {
      const Tensor condition = torch::stable::reshape(*t_.condition, {1, t_.batch, features()});
      const Tensor of_condition = product(torch::stable::transpose(*of_rows, 1, 2), condition);
      write(torch::stable::narrow(weight, 1, dim, features()),
            torch::stable::reshape(of_condition, {width, features()}));
    }
    write(some_rows(flat, t_.bias[0], width), torch::stable::reshape(product(ones(1, t_.rows()), all), {width}));
    write(some_rows(flat, of_first_, deeper_), some_rows(sums, 0, deeper_));
    return flat;
  }

  const MlpTensors& t_;
  LaplacianUpstream upstream_;
  bool needs_parameters_;
  LaplacianLayers<C> layers_;
  int64_t of_first_, deeper_;  // numbers of parameters
  int64_t points_, blocks_;
  Tensor first_;  // (N, width): gradients in the first layer's arguments
  LinearGradients<C> sums_;
  std::vector<Factor<C>> weight_;
};

static void check_dim(const MlpTensors& t) {
  SVGDX_CHECK(t.dim <= kMaxLaplacianDim, t.op, "x must have at most ", kMaxLaplacianDim, " features (D), but has ",
              t.dim);
}

static MlpResults laplacian(const Tensor& x, const OptionalTensor& condition, const Tensor& parameters,
                            const Tensor& widths, int64_t activation) {
  const Guard guard(x);
  const MlpTensors t("mlp_laplacian", x, condition, parameters, widths, activation);
  check_dim(t);
  return with_compute(t, [&](auto number) { return MlpLaplacians<decltype(number)>(t).run(); }, t.lead);
}

// An upstream gradient as a flat tensor; zeros if it is absent.
static Tensor flat_upstream(const MlpTensors& t, const char* name, const OptionalTensor& grad, const Sizes& sizes) {
  if (!grad) return new_zeros(t.x, {product_of(sizes)}, t.type);
  check_shape(t.op, name, *grad, sizes, "the shape of that output");
  return torch::stable::reshape(t.prepared(name, *grad), {product_of(sizes)});
}

static MlpResults laplacian_backward(const OptionalTensor& grad_f, const OptionalTensor& grad_score,
                                     const OptionalTensor& grad_trace, const Tensor& x, const OptionalTensor& condition,
                                     const Tensor& parameters, const Tensor& widths, int64_t activation,
                                     bool needs_parameters) {
  const Guard guard(x);
  const MlpTensors t("mlp_laplacian_backward", x, condition, parameters, widths, activation);
  check_dim(t);
  const LaplacianUpstream upstream{flat_upstream(t, "grad_f", grad_f, t.lead),
                                   flat_upstream(t, "grad_trace", grad_trace, t.lead),
                                   flat_upstream(t, "grad_score", grad_score, t.shape)};
  SVGDX_CHECK(t.dim > 0, t.op, "x must have at least 1 feature (D)");
  const auto zeros = [&](const Sizes& sizes) { return new_zeros(t.x, sizes, t.storage); };
  const Sizes of_condition = condition ? sizes_of(*condition) : Sizes{0};
  const Sizes of_parameters{needs_parameters ? parameters.numel() : 0};
  if (t.rows() == 0) return {zeros(t.shape), zeros(of_condition), zeros(of_parameters)};
  const auto run = [&](auto number) {
    return MlpLaplacianGradients<decltype(number)>(t, upstream, needs_parameters).run();
  };
  const MlpResults results = t.type == ScalarType::Double ? run(double{}) : run(float{});
  return {t.finished(std::get<0>(results), t.shape),
          t.condition ? t.finished(std::get<1>(results), of_condition) : zeros(of_condition),
          t.finished(std::get<2>(results), of_parameters)};
}

SVGDX_OPS(m) {
  m.op(
      "mlp_laplacian(Tensor x, Tensor? condition, Tensor parameters, Tensor widths, int activation) -> (Tensor, "
      "Tensor, Tensor)",
      TORCH_BOX(&laplacian));
  m.op(
      "mlp_laplacian_backward(Tensor? grad_f, Tensor? grad_score, Tensor? grad_trace, Tensor x, Tensor? condition, "
      "Tensor parameters, Tensor widths, int activation, bool needs_parameters=True) -> (Tensor, Tensor, Tensor)",
      TORCH_BOX(&laplacian_backward));
}

}  // namespace svgdx::SVGDX_BACKEND
