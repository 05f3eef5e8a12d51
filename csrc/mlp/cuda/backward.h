// Gradients of the parameters of a recorded rollout's MLP on CUDA, from the gradient of its logits: products of torch's
// over all states at once, or over chunks of them whose gradients fit into memory.
#pragma once

#include "common/limits.h"
#include "mlp/cuda/linear_gradients.h"
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
        scratch_(LinearGradients<S>::scratch(t.hidden, most_, 0, 0)) {}

  // The concatenated gradients of all parameters: weight and bias layer by layer, the head's last.
  Tensor run() {
    const int64_t chunks = (states_ + most_ - 1) / most_;
    if (chunks == 0) return new_zeros(t_.hidden, {length_}, t_.hidden.scalar_type());
    const LinearGradients<S> sums(t_.hidden, chunks, length_);
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t first = states_ * i / chunks, stop = states_ * (i + 1) / chunks;
      chunk(sums, i, first, stop - first);
    }
    return sums.total();
  }

 private:
  Tensor numbers(int64_t rows, int64_t cols) const {
    return new_empty(t_.hidden, {rows, cols}, t_.hidden.scalar_type());
  }
  static Tensor rows_of(Tensor t, int64_t first, int64_t rows) { return torch::stable::narrow(t, 0, first, rows); }

  void chunk(const LinearGradients<S>& sums, int64_t i, int64_t first, int64_t rows) const {
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
    int64_t end = sums.add(i, length_, logits, hidden(layers_ - 1), rows, scratch_);
    Tensor grad = rows_of(grads_[0], 0, rows), other = rows_of(grads_[1], 0, rows);
    aten("mm", "out", logits, t_.head, grad);
    for (int64_t layer = layers_ - 1; layer >= 0; --layer) {
      rollout_activate_backward<S>(rows * width_, data<S>(hidden(layer)), S(t_.slope), out<S>(grad), stream(t_.hidden));
      end = sums.add(i, end, grad, layer > 0 ? hidden(layer - 1) : states, rows, scratch_);
      if (layer == 0) break;
      aten("mm", "out", grad, torch::stable::select(t_.deeper, 0, layer - 1), other);
      std::swap(grad, other);
    }
  }

  const MlpBackwardTensors& t_;
  int64_t layers_, states_, width_, dim_, length_, most_;
  Tensor flat_, grad_logits_, visited_, grads_[2], scratch_;
};

}  // namespace svgdx::cuda
