// Gradients of the parameters of a recorded rollout's MLP on CUDA, from the gradient of its logits: products of torch's
// over all states at once, or over chunks of them whose gradients fit into memory.
#pragma once

#include "common/limits.h"
#include "mlp/cuda/visit.h"
#include "mlp/rollout.h"

namespace svgdx::cuda {

template <class S>
class MlpBackward {
 public:
  explicit MlpBackward(const MlpBackwardTensors& t)
      : t_(t),
        layers_(t.hidden.size(0)),
        states_(t.hidden.size(1) * t.hidden.size(2)),
        width_(t.hidden.size(3)),
        dim_(t.final.size(1)),
        length_(width_ * (dim_ + 1) + (layers_ - 1) * width_ * (width_ + 1) + 3 * dim_ * (width_ + 1)),
        most_(std::min(std::max<int64_t>(1, states_),
                       std::max<int64_t>(1, kRolloutNumbers / std::max(3 * dim_, width_)))),
        flat_(torch::stable::reshape(t.hidden, {layers_, states_, width_})),
        grad_logits_(numbers(most_, 3 * dim_)),
        visited_(numbers(most_, dim_)),
        grads_{numbers(most_, width_), numbers(most_, width_)},
        ones_(torch::stable::full({1, most_}, 1.0, t.hidden.scalar_type(), std::nullopt, t.hidden.device())) {}

  // The concatenated gradients of all parameters: weight and bias layer by layer, the head's last.
  Tensor run() {
    const int64_t chunks = (states_ + most_ - 1) / most_;
    if (chunks == 0) return new_zeros(t_.hidden, {length_}, t_.hidden.scalar_type());
    const Tensor sums = numbers(chunks, length_);
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t first = states_ * i / chunks, stop = states_ * (i + 1) / chunks;
      chunk(torch::stable::select(sums, 0, i), first, stop - first);
    }
    if (chunks == 1) return torch::stable::select(sums, 0, 0);
    return torch::stable::sum(sums, torch::headeronly::IntHeaderOnlyArrayRef({0}), false);
  }

 private:
  Tensor numbers(int64_t rows, int64_t cols) const {
    return new_empty(t_.hidden, {rows, cols}, t_.hidden.scalar_type());
  }
  static Tensor rows_of(Tensor t, int64_t first, int64_t rows) { return torch::stable::narrow(t, 0, first, rows); }

  void chunk(const Tensor& sums, int64_t first, int64_t rows) const {
    const Tensor logits = rows_of(grad_logits_, 0, rows), states = rows_of(visited_, 0, rows);
    const RolloutGather<S> gather{first,
                                  rows,
                                  t_.hidden.size(2),
                                  t_.split,
                                  t_.hidden.size(1),
                                  dim_,
                                  data<S>(t_.grad_logits),
                                  data<int32_t>(t_.set_time),
                                  data<int8_t>(t_.final),
                                  out<S>(logits),
                                  out<S>(states)};
    rollout_gather<S>(gather, stream(t_.hidden));
    const auto hidden = [&](int64_t layer) { return rows_of(torch::stable::select(flat_, 0, layer), first, rows); };
    int64_t end = write(sums, length_, logits, hidden(layers_ - 1));
    Tensor grad = rows_of(grads_[0], 0, rows), other = rows_of(grads_[1], 0, rows);
    aten("mm", "out", logits, t_.head, grad);
    for (int64_t layer = layers_ - 1; layer >= 0; --layer) {
      rollout_activate_backward<S>(rows * width_, data<S>(hidden(layer)), S(t_.slope), out<S>(grad), stream(t_.hidden));
      end = write(sums, end, grad, layer > 0 ? hidden(layer - 1) : states);
      if (layer == 0) break;
      aten("mm", "out", grad, torch::stable::select(t_.deeper, 0, layer - 1), other);
      std::swap(grad, other);
    }
  }

  // Writes the gradients of a linear layer's weight (out, in) and bias (out), which end at `end`; returns their start.
  int64_t write(const Tensor& sums, int64_t end, const Tensor& grad, const Tensor& inputs) const {
    const int64_t outputs = grad.size(1), columns = inputs.size(1);
    const int64_t bias = end - outputs, weight = bias - outputs * columns;
    const auto part = [&](int64_t first, int64_t rows, int64_t cols) {
      return torch::stable::view(rows_of(sums, first, rows * cols), {rows, cols});
    };
    Tensor same = grad, ones = ones_;
    aten("mm", "out", torch::stable::transpose(same, 0, 1), inputs, part(weight, outputs, columns));
    aten("mm", "out", torch::stable::narrow(ones, 1, 0, grad.size(0)), grad, part(bias, 1, outputs));
    return weight;
  }

  const MlpBackwardTensors& t_;
  int64_t layers_, states_, width_, dim_, length_, most_;
  Tensor flat_, grad_logits_, visited_, grads_[2], ones_;
};

}  // namespace svgdx::cuda
