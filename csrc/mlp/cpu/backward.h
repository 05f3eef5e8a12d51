// The gradient of a recorded rollout's MLP on the CPU, from the gradient of its logits.
#pragma once

#include "draw/host.h"
#include "mlp/cpu/linear_gradients.h"
#include "mlp/rollout.h"

namespace svgdx::cpu {

template <class S>
class MlpBackward {
  using C = Compute<S>;
  static constexpr int64_t kChunk = 576;  // states at a time, so that their gradients stay in a core's cache

 public:
  explicit MlpBackward(const MlpBackwardTensors& t)
      : t_(t),
        layers_(t.hidden.size(0)),
        states_(t.hidden.size(1) * t.hidden.size(2)),
        width_(t.hidden.size(3)),
        dim_(t.final.size(1)),
        length_(width_ * (dim_ + 1) + (layers_ - 1) * width_ * (width_ + 1) + 3 * dim_ * (width_ + 1)),
        flat_(torch::stable::reshape(t.hidden, {layers_, states_, width_})),
        sums_(t.hidden, states_ / 256, length_),
        head_(t.head, states_) {
    for (int64_t layer = 1; layer < layers_; ++layer) {
      deeper_.emplace_back(torch::stable::select(t.deeper, 0, layer - 1), states_);
    }
  }

  // The concatenated gradients of all parameters: weight and bias layer by layer, the head's last.
  Tensor run() {
    parallel_blocks(sums_.groups(), [&](int64_t begin, int64_t end) {
      for (int64_t g = begin; g < end; ++g) group(g);
    });
    return sums_.total();
  }

 private:
  // The buffers for one group's chunks.
  struct Work {
    Tensor grad_logits, states, grads[2], product;
  };

  void group(int64_t g) {
    const int64_t begin = states_ * g / sums_.groups(), end = states_ * (g + 1) / sums_.groups();
    const int64_t chunks = (end - begin + kChunk - 1) / kChunk;
    const auto empty = [&](int64_t rows, int64_t cols) {
      return new_empty(t_.hidden, {rows, cols}, t_.hidden.scalar_type());
    };
    const int64_t most = std::min(kChunk, end - begin);
    const Work work{empty(most, 3 * dim_),
                    empty(most, dim_),
                    {empty(most, width_), empty(most, width_)},
                    LinearGradients<S>::scratch(t_.hidden, most, std::max(3 * dim_, width_), std::max(width_, dim_))};
    for (int64_t i = 0; i < chunks; ++i) {
      const int64_t first = begin + (end - begin) * i / chunks, stop = begin + (end - begin) * (i + 1) / chunks;
      chunk(g, first, stop - first, work);
    }
  }

  static Tensor rows_of(Tensor t, int64_t first, int64_t rows) { return torch::stable::narrow(t, 0, first, rows); }

  void chunk(int64_t g, int64_t first, int64_t rows, const Work& work) {
    const Tensor logits = rows_of(work.grad_logits, 0, rows), states = rows_of(work.states, 0, rows);
    const MlpGather<S> gather{first,
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
    SVGDX_ISA_CALL(mlp_gather, gather);
    const auto hidden = [&](int64_t layer) { return rows_of(torch::stable::select(flat_, 0, layer), first, rows); };
    int64_t at = sums_.add(g, length_, logits, hidden(layers_ - 1), rows, work.product);
    Tensor grad = rows_of(work.grads[0], 0, rows), other = rows_of(work.grads[1], 0, rows);
    head_.multiply(logits, grad);
    for (int64_t layer = layers_ - 1; layer >= 0; --layer) {
      const Tensor here = hidden(layer);
      SVGDX_ISA_CALL(mlp_activate_backward, rows * width_, data<S>(here), C(t_.slope), out<S>(grad));
      at = sums_.add(g, at, grad, layer > 0 ? hidden(layer - 1) : states, rows, work.product);
      if (layer == 0) break;
      deeper_[layer - 1].multiply(grad, other);
      std::swap(grad, other);
    }
  }

  const MlpBackwardTensors& t_;
  int64_t layers_, states_, width_, dim_, length_;
  Tensor flat_;
  LinearGradients<S> sums_;
  std::vector<Factor<S>> deeper_;
  Factor<S> head_;
};

}  // namespace svgdx::cpu
