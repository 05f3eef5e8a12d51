// Host layer of mlp_score_hvp, compiled once for each backend. Rows are processed in blocks whose size depends on the
// shape only; on the CPU one thread takes a block through all sweeps, so that intermediate results stay in that core's
// cache.
#include "common/registration.h"
#include "mlp/host.h"
#include SVGDX_BACKEND_HEADER(common, device.h)
#include SVGDX_BACKEND_HEADER(common, factor.h)
#include SVGDX_BACKEND_HEADER(mlp, rows.h)

namespace svgdx::SVGDX_BACKEND {

template <class C>
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
        block_(mlp_rows(t.rows(), t.widest())) {
    for (int64_t layer = 0; layer < t.hidden_layers(); ++layer) {
      Tensor weight = layer == 0 ? first_ : t.weight[layer];
      weight_.emplace_back(weight, 2 * t.rows());
      transposed_.emplace_back(torch::stable::transpose(weight, 0, 1), 2 * t.rows());
    }
  }

  MlpResults run() {
    const int64_t count = (t_.rows() + block_ - 1) / block_, most = std::min(block_, t_.rows());
    for_blocks(count, [&](int64_t begin, int64_t end) {
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
    void* stream = SVGDX_BACKEND::stream(t_.x);
    const size_t last = layers.size() - 1;
    transposed_[0].multiply(some_rows(t_.x, first, rows), some_rows(layers[0].product, 0, rows));
    transposed_[0].multiply(some_rows(probe_, first, rows), some_rows(layers[0].product, rows, rows));
    for (size_t i = 0; i <= last; ++i) {
      const Layer& layer = layers[i];
      if (i > 0) transposed_[i].multiply(layers[i - 1].stacked, layer.product);
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
      mlp_forward<C>(args, stream);
    }
    for (size_t i = last; i > 0; --i) {
      const Layer& below = layers[i - 1];
      weight_[i].multiply(layers[i].stacked, below.product);
      const MlpReverse<C> args{
          rows, below.width, data<C>(below.product), data<C>(below.slope), data<C>(below.bend), out<C>(below.stacked)};
      mlp_reverse<C>(args, stream);
    }
    weight_[0].multiply(some_rows(layers[0].stacked, 0, rows), some_rows(score_, first, rows));
    weight_[0].multiply(some_rows(layers[0].stacked, rows, rows), some_rows(hvp_, first, rows));
  }

  const MlpTensors& t_;
  Tensor probe_, first_;
  OptionalTensor part_;
  std::vector<Factor<C>> weight_, transposed_;  // of the hidden layers
  Tensor value_, score_, hvp_;
  int64_t block_;
};

static MlpResults score_hvp(const Tensor& x, const OptionalTensor& condition, const Tensor& probe,
                            const Tensor& parameters, const Tensor& widths, int64_t activation) {
  const Guard guard(x);
  const char* op = "mlp_score_hvp";
  const MlpTensors t(op, x, condition, parameters, widths, activation);
  check_shape(op, "probe", probe, t.shape, "the shape of x");
  const Tensor rows = torch::stable::reshape(t.prepared("probe", probe), {t.rows(), t.dim});
  return with_compute(t, [&](auto number) { return MlpScoreHvp<decltype(number)>(t, rows).run(); }, t.shape);
}

SVGDX_OPS(m) {
  m.op(
      "mlp_score_hvp(Tensor x, Tensor? condition, Tensor probe, Tensor parameters, Tensor widths, int activation) -> "
      "(Tensor, Tensor, Tensor)",
      TORCH_BOX(&score_hvp));
}

}  // namespace svgdx::SVGDX_BACKEND
